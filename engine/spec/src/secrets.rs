//! Secrets in places where everybody can read them: a manifest, a statement.

/// Parts of names of options under which other systems take secrets.
const NAMES: [&str; 6] = ["secret", "password", "passwd", "token", "access_key", "credential"];

/// Whether an option with this name holds a secret: `aws.secret_access_key`, `fs.s3a.session-token`.
pub fn is_name_of_secret(option: &str) -> bool {
    let option = option.to_ascii_lowercase().replace(['-', '.'], "_");
    NAMES.iter().any(|name| option.contains(name))
}

/// Whether a location has a user or a secret before its host: `s3://key:secret@bucket/path`.
pub fn has_user(location: &str) -> bool {
    let authority = location
        .split_once("://")
        .and_then(|(_, rest)| rest.split(['/', '?', '#']).next());
    authority.is_some_and(|authority| authority.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_by_their_place() {
        for option in ["aws.secret_access_key", "AWS_ACCESS_KEY_ID", "fs.s3a.session-token"] {
            assert!(is_name_of_secret(option), "{option}");
        }
        for option in ["format.delimiter", "format.compression", "has_header"] {
            assert!(!is_name_of_secret(option), "{option}");
        }
        for location in ["s3://key:secret@bucket/x", "s3://key@bucket", "s3://k:s@b?x"] {
            assert!(has_user(location), "{location}");
        }
        for location in ["s3://bucket/a@b", "/a@b", "s3://bucket?a@b", "a@b"] {
            assert!(!has_user(location), "{location}");
        }
    }
}
