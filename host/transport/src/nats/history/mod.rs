//! The account of attempts in its stream: [`page`] is how records are stored, [`batches`] which go together, [`writer`]
//! stores them, [`reader`] finds them.

mod batches;
mod page;
mod reader;
mod writer;

pub use reader::{Account, HistoryError, HistoryReader};
pub use writer::HistoryWriter;
