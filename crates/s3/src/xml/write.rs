//! Writes XML by pushing text: a listing of 1,000 keys is one string, grown a few times.

use std::fmt::Write;

/// The name space of every S3 document.
pub const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// A document that grows.
pub struct Xml {
    text: String,
}

impl Xml {
    /// A document whose root is `root`, in S3's name space.
    pub fn new(root: &str) -> Self {
        Self::with_capacity(root, 512)
    }

    /// As [`Xml::new`], with room for `bytes`.
    pub fn with_capacity(root: &str, bytes: usize) -> Self {
        let mut text = String::with_capacity(bytes);
        text.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<");
        text.push_str(root);
        text.push_str(" xmlns=\"");
        text.push_str(NAMESPACE);
        text.push_str("\">");
        Xml { text }
    }

    /// A document without name space: S3's errors have none.
    pub fn bare(root: &str) -> Self {
        Xml { text: format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root}>") }
    }

    /// `<tag>`.
    pub fn open(&mut self, tag: &str) -> &mut Self {
        self.text.push('<');
        self.text.push_str(tag);
        self.text.push('>');
        self
    }

    /// `</tag>`.
    pub fn close(&mut self, tag: &str) -> &mut Self {
        self.text.push_str("</");
        self.text.push_str(tag);
        self.text.push('>');
        self
    }

    /// `<tag>value</tag>`, escaped.
    pub fn text(&mut self, tag: &str, value: &str) -> &mut Self {
        self.open(tag);
        escape(&mut self.text, value);
        self.close(tag)
    }

    /// As [`Xml::text`] if there is a value.
    pub fn maybe(&mut self, tag: &str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.text(tag, value),
            None => self,
        }
    }

    /// `<tag>number</tag>`.
    pub fn number(&mut self, tag: &str, value: u64) -> &mut Self {
        self.open(tag);
        let _ = write!(self.text, "{value}");
        self.close(tag)
    }

    /// `<tag>true</tag>`.
    pub fn flag(&mut self, tag: &str, value: bool) -> &mut Self {
        self.text(tag, if value { "true" } else { "false" })
    }

    /// `<tag>"etag"</tag>`, with S3's quotes.
    pub fn etag(&mut self, tag: &str, etag: &str) -> &mut Self {
        self.open(tag);
        self.text.push_str("&quot;");
        escape(&mut self.text, etag);
        self.text.push_str("&quot;");
        self.close(tag)
    }

    /// Text as it is: the caller has escaped it.
    pub fn raw(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Closes the root and gives the document.
    pub fn finish(mut self, root: &str) -> String {
        self.close(root);
        self.text
    }
}

/// Appends `value` so that it reads back as it is. Characters that XML 1.0 can't hold are written
/// as numbers all the same, as S3 does; clients that meet such keys ask for `encoding-type=url`.
pub fn escape(out: &mut String, value: &str) {
    let mut from = 0;
    for (at, byte) in value.bytes().enumerate() {
        let entity = match byte {
            b'&' => "&amp;",
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'"' => "&quot;",
            0..=0x1f | 0x7f => {
                out.push_str(&value[from..at]);
                let _ = write!(out, "&#x{byte:x};");
                from = at + 1;
                continue;
            }
            _ => continue,
        };
        out.push_str(&value[from..at]);
        out.push_str(entity);
        from = at + 1;
    }
    out.push_str(&value[from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let nasty = "a&b<c>\"d'e\n\r\t ü😀";
        let mut xml = Xml::new("Root");
        xml.text("Key", nasty).number("Size", 7).flag("Truncated", true).etag("ETag", "abc");
        let text = xml.finish("Root");
        let root = crate::xml::parse(text.as_bytes()).unwrap();
        assert_eq!(root.name, "Root");
        assert_eq!(root.get("Key"), Some(nasty));
        assert_eq!(root.get("Size"), Some("7"));
        assert_eq!(root.get("Truncated"), Some("true"));
        assert_eq!(root.get("ETag"), Some("\"abc\""));
    }
}
