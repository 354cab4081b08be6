//! One pass over a JSON text for what the parser does not check in raw values.

use std::slice::Iter;

use super::EnvelopeError;

/// Refuses nesting beyond `depth_max` and strings with half a surrogate pair (RFC 8259, section 8.2).
///
/// Whether the text is JSON at all is left to the parser.
pub(super) fn depth_and_surrogates(text: &str, depth_max: usize) -> Result<(), EnvelopeError> {
    let mut bytes = text.as_bytes().iter();
    let mut depth = 0_usize;
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => string(&mut bytes)?,
            b'{' | b'[' => {
                depth += 1;
                if depth > depth_max {
                    return Err(EnvelopeError::TooDeep);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Reads on to the closing quote.
fn string(bytes: &mut Iter<'_, u8>) -> Result<(), EnvelopeError> {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return Ok(()),
            b'\\' if bytes.next() == Some(&b'u') => escape(bytes)?,
            _ => {}
        }
    }
    Ok(())
}

/// Reads the four digits after `\u`, and the second escape of a pair.
fn escape(bytes: &mut Iter<'_, u8>) -> Result<(), EnvelopeError> {
    match unit(bytes) {
        Some(0xD800..=0xDBFF) => {
            let escaped = bytes.next() == Some(&b'\\') && bytes.next() == Some(&b'u');
            match unit(bytes) {
                Some(0xDC00..=0xDFFF) if escaped => Ok(()),
                _ => Err(EnvelopeError::LoneSurrogate),
            }
        }
        Some(0xDC00..=0xDFFF) => Err(EnvelopeError::LoneSurrogate),
        // Not four hexadecimal digits: the parser refuses it.
        _ => Ok(()),
    }
}

fn unit(bytes: &mut Iter<'_, u8>) -> Option<u32> {
    let mut unit = 0;
    for _ in 0..4 {
        unit = unit * 16 + char::from(*bytes.next()?).to_digit(16)?;
    }
    Some(unit)
}
