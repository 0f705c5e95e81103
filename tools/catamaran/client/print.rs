//! Records on paper: for people, as JSON, or as they are.

use catamaran::model::LogIndex;
use serde_json::json;

/// How a record is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Index, tab, text; what is not printable is escaped, so a record is always one line.
    Line,
    /// An object with the index and the text, or hexadecimal digits of what is not UTF-8.
    Json,
    /// The bytes and a newline: the inverse of appending the lines of a file.
    Raw,
}

/// The record at `index`, ready to be written out, newline included.
pub(super) fn record(shape: Shape, index: LogIndex, bytes: &[u8]) -> Vec<u8> {
    match shape {
        Shape::Line => format!("{index}\t{}\n", line(bytes)).into_bytes(),
        Shape::Json => {
            let object = match core::str::from_utf8(bytes) {
                Ok(text) => json!({ "index": index.get(), "text": text }),
                Err(_) => json!({ "index": index.get(), "hex": hex(bytes) }),
            };
            format!("{object}\n").into_bytes()
        }
        Shape::Raw => [bytes, b"\n"].concat(),
    }
}

/// Text with control characters and broken UTF-8 escaped.
fn line(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(shape: Shape, bytes: &[u8]) -> String {
        String::from_utf8_lossy(&record(shape, LogIndex::new(7), bytes)).into_owned()
    }

    #[test]
    fn a_record_is_one_line_whatever_is_in_it() {
        assert_eq!(printed(Shape::Line, "grüße".as_bytes()), "7\tgrüße\n");
        assert_eq!(printed(Shape::Line, b"a\nb\\c\x00"), "7\ta\\nb\\\\c\\u{0}\n");
        assert_eq!(printed(Shape::Line, &[0xff, b'x']), "7\t\\xffx\n");
        assert_eq!(printed(Shape::Line, b""), "7\t\n");
    }

    #[test]
    fn json_keeps_every_byte() {
        assert_eq!(printed(Shape::Json, b"a\n\"b"), "{\"index\":7,\"text\":\"a\\n\\\"b\"}\n");
        assert_eq!(printed(Shape::Json, &[0xff, 0x00]), "{\"hex\":\"ff00\",\"index\":7}\n");
    }

    #[test]
    fn raw_is_raw() {
        assert_eq!(record(Shape::Raw, LogIndex::new(7), &[0xff, 0]), [0xff, 0, b'\n']);
    }
}
