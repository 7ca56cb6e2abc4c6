//! Scopes: prefixes of keys, each with the one node that may write to them, and with who does it while that
//! one is down. Written as kevy writes them, `PREFIX=WRITER` or `PREFIX=WRITER|FALLBACK` with commas between.

use std::fmt;

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scope {
    /// How its keys begin.
    pub prefix: String,
    /// The name of the node that writes to them.
    pub writer: String,
    /// Who does it while that one is down.
    pub fallback: Option<String>,
}

/// Several, in the order of their prefixes, of which none begins with another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scopes(Vec<Scope>);

/// Why a list was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScopeFault {
    /// Not of that form.
    Form(String),
    /// Two scopes have this prefix.
    Twice(String),
    /// The first prefix begins with the second, so that its keys would have two writers.
    Nested(String, String),
}

impl fmt::Display for ScopeFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(scope) => write!(
                out,
                "{scope}: a scope is PREFIX=WRITER or PREFIX=WRITER|FALLBACK"
            ),
            Self::Twice(prefix) => write!(out, "two scopes have the prefix {prefix}"),
            Self::Nested(inner, outer) => write!(
                out,
                "keys that begin with {inner} also begin with {outer}, which is another scope"
            ),
        }
    }
}

impl std::error::Error for ScopeFault {}

impl Scopes {
    /// Reads a list. Blanks around a scope and empty ones are skipped.
    ///
    /// # Errors
    /// [`ScopeFault`] with what is wrong first.
    pub fn parse(text: &str) -> Result<Self, ScopeFault> {
        let listed = text.split(',').map(str::trim);
        let scopes: Result<Vec<Scope>, ScopeFault> = listed
            .filter(|scope| !scope.is_empty())
            .map(parse_scope)
            .collect();
        let mut scopes = scopes?;
        scopes.sort_by(|one, other| one.prefix.cmp(&other.prefix));
        // All that begins with a prefix comes right behind it.
        for pair in scopes.windows(2) {
            let (outer, inner) = (&pair[0].prefix, &pair[1].prefix);
            if outer == inner {
                return Err(ScopeFault::Twice(inner.clone()));
            }
            if inner.starts_with(outer) {
                return Err(ScopeFault::Nested(inner.clone(), outer.clone()));
            }
        }
        Ok(Self(scopes))
    }

    /// Where among them the one of a key is.
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        // Nothing is between a prefix and what begins with it but what begins with it, too.
        let before = |scope: &Scope| scope.prefix.as_bytes() <= key;
        let at = self.0.partition_point(before).checked_sub(1)?;
        key.starts_with(self.0[at].prefix.as_bytes()).then_some(at)
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Scope> {
        self.0.iter()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The list, as it is read.
impl fmt::Display for Scopes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, scope) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(out, "{comma}{}={}", scope.prefix, scope.writer)?;
            if let Some(fallback) = &scope.fallback {
                write!(out, "|{fallback}")?;
            }
        }
        Ok(())
    }
}

fn parse_scope(text: &str) -> Result<Scope, ScopeFault> {
    let form = || ScopeFault::Form(text.into());
    let (prefix, owners) = text.split_once('=').ok_or_else(form)?;
    let (writer, fallback) = match owners.split_once('|') {
        Some((writer, fallback)) => (writer, Some(fallback)),
        None => (owners, None),
    };
    // A name is told to clients, in one line.
    let is_name = |name: &str| {
        let is_part = |letter: char| !letter.is_whitespace() && !letter.is_control();
        !name.is_empty() && name.chars().all(is_part)
    };
    if prefix.is_empty() || !is_name(writer) || !fallback.is_none_or(is_name) {
        return Err(form());
    }
    Ok(Scope {
        prefix: prefix.into(),
        writer: writer.into(),
        fallback: fallback.map(String::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(text: &str) -> Scopes {
        Scopes::parse(text).expect(text)
    }

    #[test]
    fn a_key_is_of_the_scope_that_it_begins_with() {
        let scopes = scopes("b:=two|three, a:x:=one,,a:y=four,ä=five");
        let writer = |key: &[u8]| {
            let at = scopes.find(key)?;
            scopes.iter().nth(at).map(|scope| &scope.writer[..])
        };
        let cases: [(&[u8], Option<&str>); 13] = [
            (b"a:x:", Some("one")),
            (b"a:x:1", Some("one")),
            (b"a:x:\xff\x00", Some("one")),
            (b"a:x", None),
            (b"a:x;", None),
            (b"a:y", Some("four")),
            (b"a:yy", Some("four")),
            (b"a:z", None),
            (b"b:k", Some("two")),
            (b"c", None),
            (b"", None),
            (b"\x00", None),
            ("äö".as_bytes(), Some("five")),
        ];
        for (key, want) in cases {
            assert_eq!(writer(key), want, "{}", String::from_utf8_lossy(key));
        }
        assert_eq!(Scopes::default().find(b"a"), None);
    }

    #[test]
    fn every_key_is_found_as_by_looking_at_all_prefixes() {
        let scopes = scopes("aa=w,ab=w,b=w,ca=w,cba=w,cbb=w,d=w");
        let mut keys: Vec<Vec<u8>> = vec![vec![]];
        for len in 0..4 {
            let longest: Vec<_> = keys
                .iter()
                .filter(|key| key.len() == len)
                .cloned()
                .collect();
            for key in longest {
                keys.extend((b'a'..=b'e').map(|last| [&key[..], &[last]].concat()));
            }
        }
        for key in keys {
            let begins = |scope: &Scope| key.starts_with(scope.prefix.as_bytes());
            assert_eq!(scopes.find(&key), scopes.iter().position(begins), "{key:?}");
        }
    }

    #[test]
    fn a_list_is_written_as_it_is_read() {
        let text = "a:=one|10.0.0.2:6379,b:=two,p=w|f|g";
        assert_eq!(scopes(text).to_string(), text);
        assert_eq!(scopes(&scopes(text).to_string()), scopes(text));
        // The first = and the first | count, as with kevy.
        let odd = scopes("k=a=b|c=d");
        let odd = odd.iter().next().expect("there is one");
        let told = (&odd.prefix[..], &odd.writer[..], odd.fallback.as_deref());
        assert_eq!(told, ("k", "a=b", Some("c=d")));
        assert!(scopes(" , ").is_empty());
    }

    #[test]
    fn what_is_no_scope_is_named() {
        let fault = |text: &str| Scopes::parse(text).expect_err(text);
        for text in [
            "a", "=w", "a=", "a=|f", "a=w|", "a=w w", "a=w|\tf", "a=w\u{7}",
        ] {
            assert_eq!(fault(text), ScopeFault::Form(text.into()));
            assert_eq!(
                fault(&format!("b=w,{text},c=w")),
                ScopeFault::Form(text.into())
            );
        }
        assert_eq!(fault("a:=v,b:=v,a:=w"), ScopeFault::Twice("a:".into()));
        let nested = ScopeFault::Nested("a:b:".into(), "a:".into());
        assert_eq!(fault("a:b:=v,a:=w,b=u"), nested);
    }
}
