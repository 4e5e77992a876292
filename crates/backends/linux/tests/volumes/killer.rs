//! Programs that kill whoever calls them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A folder with a program of that name, the so-manieth call of which kills its caller.
pub fn deadly(folder: &Path, program: &str, when: &str, call: u32) -> PathBuf {
    let programs = folder.join("programs");
    fs::create_dir(&programs).unwrap();
    let usual = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let real = usual.map(|usual| Path::new(usual).join(program)).into_iter().find(|real| real.exists());
    let Some(real) = real else { return programs };
    let (real, calls) = (real.display(), folder.join("calls"));
    let kill = "kill -9 $PPID";
    let dies = match when {
        "before" => kill.to_owned(),
        "while" => format!("{kill}; exec {real} \"$@\""),
        _ => format!("{real} \"$@\"; {kill}"),
    };
    let text = format!(
        "#!/bin/sh\necho call >> '{calls}'\nif [ $(wc -l < '{calls}') = {call} ]; then {dies}; exit 1; fi\n\
         exec {real} \"$@\"\n",
        calls = calls.display()
    );
    let file = programs.join(program);
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    programs
}
