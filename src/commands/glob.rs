//! Patterns of KEYS, SCAN and PSUBSCRIBE, matched as Redis' `stringmatchlen` matches them.
//!
//! `?` any byte, `*` any bytes, `[a-c]` `[^ab]` sets, `\` before any byte takes it as it stands. Odd patterns mean
//! what they mean in Redis: a set that is not closed ends with the pattern, a range may be written backwards.

/// Stars nested deeper than this match nothing, as in Redis.
const MAX_STARS: usize = 1000;

/// Whether all of `text` matches `pattern`. Time is bounded by the product of the lengths.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    if text.is_empty() {
        // Redis looks at no pattern then, except that a lone star is not a pattern to it.
        return matches!(pattern, b"" | b"*");
    }
    attempt(pattern, text, 0) == Match::Yes
}

#[derive(PartialEq)]
enum Match {
    Yes,
    No,
    /// No, and a star further left that takes more of the text cannot help.
    Never,
}

fn attempt(mut pattern: &[u8], mut text: &[u8], stars: usize) -> Match {
    if stars > MAX_STARS {
        return Match::No;
    }
    while let (Some((&sign, after)), Some((&byte, rest))) = (pattern.split_first(), text.split_first()) {
        let (fits, next) = match sign {
            b'*' => return star(after, text, stars),
            b'?' => (true, after),
            b'[' => set(after, byte),
            b'\\' => match after.split_first() {
                Some((&escaped, after)) => (escaped == byte, after),
                None => (byte == b'\\', after),
            },
            _ => (sign == byte, after),
        };
        if !fits {
            return Match::No;
        }
        (pattern, text) = (next, rest);
    }
    if text.is_empty() && pattern.iter().all(|&sign| sign == b'*') { Match::Yes } else { Match::No }
}

/// `rest` is the pattern behind the star.
fn star(rest: &[u8], mut text: &[u8], stars: usize) -> Match {
    let skip = rest.iter().take_while(|&&sign| sign == b'*').count();
    let rest = &rest[skip..];
    if rest.is_empty() {
        return Match::Yes;
    }
    while let Some((_, shorter)) = text.split_first() {
        match attempt(rest, text, stars + 1) {
            Match::No => text = shorter,
            // What follows this star was found, and what follows that was not, however much a star took: taking
            // more here leaves less there.
            decided => return decided,
        }
    }
    Match::Never
}

/// Whether the set that begins behind its bracket holds the byte, and the pattern behind the set.
fn set(mut pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    let negated = pattern.first() == Some(&b'^');
    if negated {
        pattern = &pattern[1..];
    }
    let mut found = false;
    let rest = loop {
        pattern = match pattern {
            [] => break pattern,
            [b']', rest @ ..] => break rest,
            [b'\\', escaped, rest @ ..] => {
                found |= *escaped == byte;
                rest
            }
            [from, b'-', to, rest @ ..] => {
                found |= (*from.min(to)..=*from.max(to)).contains(&byte);
                rest
            }
            [one, rest @ ..] => {
                found |= *one == byte;
                rest
            }
        };
    };
    (found != negated, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_mean_what_they_mean_in_redis() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("**", "", false),
            ("a**", "a", true),
            ("?", "", false),
            ("h?llo", "hello", true),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hello", false),
            ("h[^e]llo", "hbllo", true),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hbllo", true),
            ("h[a-b]llo", "hcllo", false),
            (r"h\*llo", "h*llo", true),
            (r"h\*llo", "hello", false),
            (r"a\", r"a\", true),
            ("[abc", "c", true),
            ("[abc", "d", false),
            ("[a-", "-", true),
            ("[]", "a", false),
            ("[^]", "a", true),
            (r"[\]]", "]", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-d", false),
            ("*ab", "aab", true),
            ("*?", "a", true),
            ("a*", "a", true),
            ("HELLO", "hello", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_time() {
        let (pattern, text) = ("a*".repeat(900) + "b", "a".repeat(5_000));
        assert!(!matches(pattern.as_bytes(), text.as_bytes()));
    }

    /// Every way a star can go, tried.
    fn plain(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|skip| plain(rest, &text[skip..])),
            ([b'?', rest @ ..], [_, tail @ ..]) => plain(rest, tail),
            ([sign, rest @ ..], [byte, tail @ ..]) => sign == byte && plain(rest, tail),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn stars_find_a_way_if_there_is_one(pattern in "[ab*?]{0,8}", text in "[ab]{1,8}") {
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), plain(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
