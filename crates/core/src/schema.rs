//! OpenAPI schemas of the types whose JSON form is a text of their own.

/// Gives a type that is written as text the schema of a text, described by its rule.
macro_rules! text {
    ($name:ident, $rule:expr) => {
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::schema::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .description(Some($rule))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}

pub(crate) use text;
