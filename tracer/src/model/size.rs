//! Sizes as a person reads them.

use humansize::{BINARY, FormatSizeOptions, SizeFormatter};

/// `512.0 MiB`.
pub fn size(bytes: u64) -> String {
    SizeFormatter::new(bytes, FormatSizeOptions::from(BINARY).decimal_places(1).decimal_zeroes(1)).to_string()
}
