//! The tools.

mod blocks;
mod files;
mod network;
mod system;

use crate::tool::Tool;

/// All tools.
pub(crate) fn all() -> impl Iterator<Item = &'static Tool> {
    [files::TOOLS, network::TOOLS, system::TOOLS, blocks::TOOLS]
        .into_iter()
        .flatten()
}
