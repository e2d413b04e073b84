//! stub
#![allow(missing_docs, clippy::all)]
use std::path::{Path, PathBuf};
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootKind {
    Store,
    Folder,
    Medium,
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootId(String);
#[derive(Debug, Clone)]
pub struct Root(PathBuf, RootId, RootKind);
impl Root {
    pub fn store(l: &str) -> Self {
        Self(l.into(), RootId(l.into()), RootKind::Store)
    }
    pub fn folder(p: &Path) -> std::io::Result<Self> {
        Ok(Self(
            fs_err::canonicalize(p)?,
            RootId(p.display().to_string()),
            RootKind::Folder,
        ))
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
    pub fn id(&self) -> &RootId {
        &self.1
    }
    pub fn kind(&self) -> RootKind {
        self.2
    }
}
