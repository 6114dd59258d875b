//! A parameter of Redis that is a number, and how CONFIG SET may write it.

/// A name, and which numbers it takes.
pub struct Number {
    pub name: &'static str,
    /// Redis' older name, which means the same.
    pub alias: Option<&'static str>,
    least: i64,
    most: i64,
    /// It may have a unit: `4kb`.
    bytes: bool,
}

impl Number {
    pub const fn plain(name: &'static str, alias: Option<&'static str>, (least, most): (i64, i64)) -> Number {
        Number { name, alias, least, most, bytes: false }
    }

    pub const fn bytes(name: &'static str, alias: Option<&'static str>) -> Number {
        Number { name, alias, least: 0, most: i64::MAX, bytes: true }
    }

    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.alias == Some(name)
    }

    /// Its names, the older one behind.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.alias)
    }

    /// What a text says; the error says what a value must be, in Redis' words.
    pub fn parse(&self, text: &str) -> Result<i64, String> {
        let value = match self.bytes {
            false => text.parse().map_err(|_| "argument couldn't be parsed into an integer".to_owned())?,
            true => super::memory_size(text)
                .and_then(|bytes| i64::try_from(bytes).ok())
                .ok_or_else(|| "argument must be a memory value".to_owned())?,
        };
        if (self.least..=self.most).contains(&value) {
            return Ok(value);
        }
        Err(format!("argument must be between {} and {} inclusive", self.least, self.most))
    }
}
