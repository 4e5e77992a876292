//! The guard as a program of its own: what `steadfast guard` is, without the rest. The tests run engines under it.

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "guard") {
        arguments.remove(0);
    }
    std::process::exit(steadfast_agent::guard::run_from_arguments(&arguments));
}
