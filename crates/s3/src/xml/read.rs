//! Reads small XML documents into a tree, within bounds: what a client sends is never trusted.

use quick_xml::Reader;
use quick_xml::events::Event;

use crate::error::{Code, Error, Result};

/// Elements of one document: 10,000 parts of a completion have seven each, and some.
const NODES_MAX: usize = 120_000;
/// Depth of one document: S3's deepest has six.
const DEPTH_MAX: usize = 16;

/// One element.
#[derive(Debug, Default)]
pub struct Node {
    /// Its name without prefix.
    pub name: String,
    /// Its text, entities resolved.
    pub text: String,
    /// The value of its `xsi:type`, which only ACLs use.
    pub kind: Option<String>,
    /// Its elements, in order.
    pub children: Vec<Node>,
}

impl Node {
    /// The first element with this name.
    pub fn child(&self, name: &str) -> Option<&Node> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first element with this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }

    /// All elements with this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Node> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of the first element with this name, or `MalformedXML`.
    pub fn need(&self, name: &str) -> Result<&str> {
        self.get(name).ok_or_else(|| malformed(format!("{} has no {name}", self.name)))
    }
}

fn malformed(why: impl std::fmt::Display) -> Error {
    Error::new(Code::MalformedXML, format!("{}: {why}", Code::MalformedXML.message()))
}

/// The document's root.
pub fn parse(bytes: &[u8]) -> Result<Node> {
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("it is not UTF-8"))?;
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Node> = Vec::new();
    let mut root = None;
    let mut nodes = 0;
    loop {
        match reader.read_event().map_err(malformed)? {
            Event::Start(tag) => {
                nodes += 1;
                if nodes > NODES_MAX || open.len() >= DEPTH_MAX || root.is_some() {
                    return Err(malformed("too many or too deep elements"));
                }
                open.push(node(&tag)?);
            }
            Event::Empty(tag) => {
                nodes += 1;
                if nodes > NODES_MAX {
                    return Err(malformed("too many elements"));
                }
                close(&mut open, &mut root, node(&tag)?)?;
            }
            Event::End(_) => {
                let node = open.pop().ok_or_else(|| malformed("an end without a start"))?;
                close(&mut open, &mut root, node)?;
            }
            Event::Text(text) => push(&mut open, &text.xml10_content())?,
            Event::CData(text) => push(&mut open, &text.xml10_content())?,
            Event::GeneralRef(reference) => {
                let resolved = match reference.resolve_char_ref().map_err(malformed)? {
                    Some(char) => char,
                    None => entity(&reference.xml10_content())?,
                };
                push(&mut open, resolved.encode_utf8(&mut [0; 4]))?;
            }
            Event::DocType(_) => return Err(malformed("document types are not accepted")),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            Event::Eof => break,
        }
    }
    match root {
        Some(root) if open.is_empty() => Ok(root),
        _ => Err(malformed("it ends too early")),
    }
}

fn node(tag: &quick_xml::events::BytesStart<'_>) -> Result<Node> {
    let local = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let mut kind = None;
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(malformed)?;
        let name = local(attribute.key.as_ref().as_ref());
        if name == "type" || name.ends_with(":type") {
            kind = Some(local(attribute.value.as_ref().as_ref()));
        }
    }
    let name = local(tag.local_name().as_ref().as_ref());
    Ok(Node { name, text: String::new(), kind, children: Vec::new() })
}

fn close(open: &mut [Node], root: &mut Option<Node>, mut node: Node) -> Result<()> {
    if !node.children.is_empty() {
        // White space between elements is nobody's text.
        node.text = String::new();
    }
    match open.last_mut() {
        Some(parent) => parent.children.push(node),
        None if root.is_none() => *root = Some(node),
        None => return Err(malformed("it has two roots")),
    }
    Ok(())
}

fn push(open: &mut [Node], text: &str) -> Result<()> {
    match open.last_mut() {
        Some(node) => node.text.push_str(text),
        None if text.trim().is_empty() => {}
        None => return Err(malformed("text outside of the root")),
    }
    Ok(())
}

fn entity(name: &str) -> Result<char> {
    Ok(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        _ => return Err(malformed(format!("the entity {name} is not known"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_with_entities_and_prefixes() {
        let text = r#"<?xml version="1.0"?><a:Delete xmlns:a="x"><Object><Key>a&amp;&#x41;<![CDATA[<b>]]></Key></Object>
            <Object><Key/></Object><Grantee xsi:type="Group"><URI>u</URI></Grantee></a:Delete>"#;
        let root = parse(text.as_bytes()).unwrap();
        assert_eq!(root.name, "Delete");
        let keys: Vec<_> = root.all("Object").map(|object| object.get("Key").unwrap()).collect();
        assert_eq!(keys, ["a&A<b>", ""]);
        assert_eq!(root.child("Grantee").unwrap().kind.as_deref(), Some("Group"));
    }

    #[test]
    fn bad_documents_are_refused() {
        let deep = "<a>".repeat(40);
        let many = format!("<a>{}</a>", "<b/>".repeat(NODES_MAX + 1));
        let bomb = "<!DOCTYPE a [<!ENTITY b \"cc\">]><a>&b;</a>";
        for bad in ["", "x", "<a>", "<a></b>", "<a/><b/>", "<a>&nope;</a>", "<a b=></a>", bomb, &deep, &many] {
            let error = parse(bad.as_bytes()).unwrap_err();
            assert_eq!(error.code, Code::MalformedXML, "{bad:.40}");
        }
        assert!(parse(b"<a>\xff</a>").is_err());
    }
}
