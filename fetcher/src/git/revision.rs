//! What stands behind `--rev`: a commit's full id, or the name of a tag or branch.

use std::fmt;

use gix::ObjectId;

/// Which commit of a repository is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revision {
    /// A full id.
    Id(ObjectId),
    /// A tag, a branch, `HEAD` or a whole reference name.
    Name(String),
}

/// Why a text is no revision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevisionError {
    /// It would be taken for an option by git, which servers and scripts see too.
    #[error("it begins with '-'")]
    Option,
    /// 64 hexadecimal digits.
    #[error("it is an id of a repository with SHA-256 ids, which cannot be read yet")]
    Sha256,
    /// Neither an id nor a possible name.
    #[error(
        "it is neither a full commit id (40 hexadecimal digits) nor a possible name of a tag or branch"
    )]
    Name,
}

impl Revision {
    /// Reads a revision.
    pub fn parse(text: &str) -> Result<Self, RevisionError> {
        if text.starts_with('-') {
            return Err(RevisionError::Option);
        }
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_hex && text.len() == 64 {
            return Err(RevisionError::Sha256);
        }
        if is_hex && let Ok(id) = ObjectId::from_hex(text.to_ascii_lowercase().as_bytes()) {
            return Ok(Self::Id(id));
        }
        gix::validate::reference::name_partial(text.into()).map_err(|_| RevisionError::Name)?;
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_are_told_apart() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        assert!(matches!(Revision::parse(id), Ok(Revision::Id(_))));
        assert_eq!(
            Revision::parse(&id.to_ascii_uppercase())
                .unwrap()
                .to_string(),
            id
        );
        for name in ["v1.0", "main", "HEAD", "refs/tags/v1", "a/b", "abcdef0"] {
            assert_eq!(Revision::parse(name), Ok(Revision::Name(name.to_owned())));
        }
        assert_eq!(
            Revision::parse("--upload-pack=x"),
            Err(RevisionError::Option)
        );
        assert_eq!(Revision::parse(&"a".repeat(64)), Err(RevisionError::Sha256));
        for wrong in [
            "", "a..b", "../x", "/etc", "a b", "a^{tree}", "a:b", "x.lock", "a\n",
        ] {
            assert_eq!(
                Revision::parse(wrong),
                Err(RevisionError::Name),
                "{wrong:?}"
            );
        }
    }
}
