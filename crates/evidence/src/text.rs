//! Text from agents and servers, made safe to look at.

/// Writes control characters and those that turn the direction of text as escapes, so that nothing in a
/// record can command a terminal or hide from its reader.
#[must_use]
pub fn shown(text: &str) -> String {
    let hides = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if hides(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

/// Cuts a text to `chars` characters, the last of which is `…` if anything was cut.
#[must_use]
pub fn cut(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(chars.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_commands_the_terminal() {
        assert_eq!(shown("a\u{1b}[2Jb\u{9b}c\u{202e}d\ne"), "a\\u{1b}[2Jb\\u{9b}c\\u{202e}d\\ne");
        assert_eq!(shown("Grüße, 世界"), "Grüße, 世界");
    }

    #[test]
    fn cuts_count_characters() {
        assert_eq!([cut("äöü", 3), cut("äöüß", 3)], ["äöü", "äö…"]);
    }
}
