//! The names of the simulated disk: what each path leads to, and which changes of names no directory sync has covered yet.
//!
//! Owns paths and their durability; knows no bytes. A change belongs to the directory the name stands in. A power cut
//! keeps or loses each pending change by itself; what stands in a directory that is lost is lost with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::cut::Odds;
use super::random::Random;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File(u64),
}

/// One change of names, durable only after its directory was synced.
#[derive(Clone, Debug)]
enum Change {
    Put(PathBuf, Node),
    Remove(PathBuf),
    /// Within one directory; happens whole or not at all.
    Rename {
        from: PathBuf,
        to: PathBuf,
        node: Node,
    },
}

type Map = BTreeMap<PathBuf, Node>;

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    live: Map,
    disk: Map,
    pending: Vec<Change>,
}

impl Names {
    /// Names that hold nothing but `dir` and the directories above it, durably.
    pub(super) fn with_dir(dir: &Path) -> Self {
        let live: Map = dir.ancestors().map(|above| (above.to_path_buf(), Node::Dir)).collect();
        Self { disk: live.clone(), live, pending: Vec::new() }
    }

    pub(super) fn get(&self, path: &Path) -> Option<Node> {
        self.live.get(path).copied()
    }

    pub(super) fn is_dir(&self, path: &Path) -> bool {
        self.get(path) == Some(Node::Dir)
    }

    /// Whether a new name may stand here: its directory exists.
    pub(super) fn has_parent(&self, path: &Path) -> bool {
        path.parent().is_some_and(|dir| self.is_dir(dir))
    }

    /// Names that stand in `dir` itself.
    pub(super) fn list(&self, dir: &Path) -> impl Iterator<Item = (&Path, Node)> {
        let dir = dir.to_path_buf();
        let below = self.live.range(dir.clone()..).take_while({
            let dir = dir.clone();
            move |(path, _)| path.starts_with(&dir)
        });
        below.filter(move |(path, _)| path.parent() == Some(&dir)).map(|(path, node)| (path.as_path(), *node))
    }

    pub(super) fn put(&mut self, path: &Path, node: Node) {
        self.change(Change::Put(path.to_path_buf(), node));
    }

    pub(super) fn remove(&mut self, path: &Path) {
        self.change(Change::Remove(path.to_path_buf()));
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, node: Node) {
        self.change(Change::Rename { from: from.to_path_buf(), to: to.to_path_buf(), node });
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self, dir: &Path) {
        let (covered, pending) = std::mem::take(&mut self.pending).into_iter().partition(|change| change.dir() == Some(dir));
        self.pending = pending;
        let covered: Vec<Change> = covered;
        for change in covered {
            change.apply(&mut self.disk);
        }
    }

    /// Whether a name leads, or after a power cut could lead, to `inode`.
    pub(super) fn mention(&self, inode: u64) -> bool {
        let node = Node::File(inode);
        let pending = self.pending.iter().any(|change| match change {
            Change::Put(_, put) | Change::Rename { node: put, .. } => *put == node,
            Change::Remove(_) => false,
        });
        pending || self.live.values().chain(self.disk.values()).any(|named| *named == node)
    }

    /// The files that have a name.
    pub(super) fn files(&self) -> impl Iterator<Item = u64> {
        self.live.values().filter_map(|node| if let Node::File(inode) = node { Some(*inode) } else { None })
    }

    /// The files that have a name, with it.
    pub(super) fn named_files(&self) -> impl Iterator<Item = (&Path, u64)> {
        let file = |(path, node)| if let (path, Node::File(inode)) = (path, node) { Some((path, inode)) } else { None };
        self.live.iter().map(|(path, node)| (path.as_path(), *node)).filter_map(file)
    }

    /// The names as a power cut leaves them.
    pub(super) fn crash(&self, odds: Odds, random: &mut Random) -> Self {
        let mut disk = self.disk.clone();
        for change in &self.pending {
            if odds.keeps(random) {
                change.apply(&mut disk);
            }
        }
        // A directory sorts before what stands in it, so one pass upwards finds everything that was lost with one.
        let mut left = Map::new();
        for (path, node) in disk {
            if path.parent().is_none_or(|dir| left.get(dir) == Some(&Node::Dir)) {
                left.insert(path, node);
            }
        }
        Self { live: left.clone(), disk: left, pending: Vec::new() }
    }
}

impl Change {
    fn apply(&self, map: &mut Map) {
        match self {
            Self::Put(path, node) => {
                map.insert(path.clone(), *node);
            }
            Self::Remove(path) => {
                map.remove(path);
            }
            Self::Rename { from, to, node } => {
                map.remove(from);
                map.insert(to.clone(), *node);
            }
        }
    }

    fn dir(&self) -> Option<&Path> {
        let (Self::Put(path, _) | Self::Remove(path) | Self::Rename { to: path, .. }) = self;
        path.parent()
    }
}
