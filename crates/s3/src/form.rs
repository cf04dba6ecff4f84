//! Reads `multipart/form-data` (RFC 7578) as it streams in: first the fields, then the one file,
//! which is never held whole.

use bytes::{Bytes, BytesMut};

use crate::error::{Code, Error, Result};
use crate::payload::Payload;

/// Bytes of all fields before the file: S3's limit.
const FIELDS_BYTES_MAX: usize = 20 << 10;
/// Bytes of one part's head.
const HEAD_BYTES_MAX: usize = 4 << 10;
/// Fields before the file.
const FIELDS_MAX: usize = 256;

/// A form that is being read.
pub struct Form {
    /// `\r\n--` and the boundary.
    delimiter: Vec<u8>,
    buffer: BytesMut,
    ended: bool,
    /// Names in lower case and values, in order.
    pub fields: Vec<(String, String)>,
    /// The file's name as the browser gave it.
    pub filename: String,
}

fn malformed(why: &'static str) -> Error {
    Error::new(Code::MalformedPOSTRequest, format!("{} {why}", Code::MalformedPOSTRequest.message()))
}

impl Form {
    /// Reads everything before the file's bytes. `content_type` is the request's.
    pub async fn begin(content_type: &str, payload: &mut Payload) -> Result<Form> {
        let boundary = boundary(content_type).ok_or_else(|| malformed("It has no boundary."))?;
        let mut form = Form {
            delimiter: [b"\r\n--", boundary.as_bytes()].concat(),
            // The first delimiter has no line before it: give it one.
            buffer: BytesMut::from(&b"\r\n"[..]),
            ended: false,
            fields: Vec::new(),
            filename: String::new(),
        };
        // What stands before the first delimiter is a preamble for nobody.
        form.until_delimiter(payload, HEAD_BYTES_MAX).await?;
        let mut size = 0;
        loop {
            if form.last_delimiter(payload).await? {
                return Err(Error::new(Code::InvalidArgument, "POST requires exactly one file upload per request."));
            }
            let head = form.head(payload).await?;
            let (name, filename) = disposition(&head).ok_or_else(|| malformed("A part has no name."))?;
            if name.eq_ignore_ascii_case("file") {
                form.filename = filename.unwrap_or_default();
                return Ok(form);
            }
            let value = form.until_delimiter(payload, FIELDS_BYTES_MAX).await?;
            size += name.len() + value.len();
            if size > FIELDS_BYTES_MAX || form.fields.len() == FIELDS_MAX {
                return Err(Error::new(
                    Code::MaxMessageLengthExceeded,
                    "Your POST request fields preceding the upload file were too large.",
                ));
            }
            let value = String::from_utf8(value.to_vec()).map_err(|_| malformed("A field is not UTF-8."))?;
            form.fields.push((name.to_lowercase(), value));
        }
    }

    /// A field's value, by its name in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The next bytes of the file; `None` at its end.
    pub async fn next(&mut self, payload: &mut Payload) -> Result<Option<Bytes>> {
        loop {
            if self.ended {
                return Ok(None);
            }
            if let Some(at) = find(&self.buffer, &self.delimiter) {
                self.ended = true;
                return Ok(Some(self.buffer.split_to(at).freeze()).filter(|bytes| !bytes.is_empty()));
            }
            // All but what may be the beginning of a delimiter is the file's.
            let safe = self.buffer.len().saturating_sub(self.delimiter.len() - 1);
            if safe > 0 {
                return Ok(Some(self.buffer.split_to(safe).freeze()));
            }
            self.more(payload).await?;
        }
    }

    async fn more(&mut self, payload: &mut Payload) -> Result<()> {
        match payload.next().await? {
            Some(bytes) => {
                self.buffer.extend_from_slice(&bytes);
                Ok(())
            }
            None => Err(malformed("It ends too early.")),
        }
    }

    /// Everything up to the next delimiter, which is consumed.
    async fn until_delimiter(&mut self, payload: &mut Payload, limit: usize) -> Result<Bytes> {
        loop {
            if let Some(at) = find(&self.buffer, &self.delimiter) {
                let found = self.buffer.split_to(at).freeze();
                let _ = self.buffer.split_to(self.delimiter.len());
                return Ok(found);
            }
            if self.buffer.len() > limit + self.delimiter.len() {
                return Err(Error::new(
                    Code::MaxMessageLengthExceeded,
                    "Your POST request fields preceding the upload file were too large.",
                ));
            }
            self.more(payload).await?;
        }
    }

    /// Whether the delimiter just read was the last one; consumes the end of its line.
    async fn last_delimiter(&mut self, payload: &mut Payload) -> Result<bool> {
        while self.buffer.len() < 2 {
            self.more(payload).await?;
        }
        match &self.buffer.split_to(2)[..] {
            b"--" => Ok(true),
            b"\r\n" => Ok(false),
            _ => Err(malformed("A delimiter is not a line of its own.")),
        }
    }

    /// The head of a part, without the empty line that ends it.
    async fn head(&mut self, payload: &mut Payload) -> Result<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.split_to(at);
                // The line's end may be the beginning of the next delimiter if the value is empty.
                let _ = self.buffer.split_to(4);
                if self.buffer.starts_with(&self.delimiter[2..]) {
                    let rest = self.buffer.split();
                    self.buffer.extend_from_slice(b"\r\n");
                    self.buffer.extend_from_slice(&rest);
                }
                return String::from_utf8(head.to_vec()).map_err(|_| malformed("A part's head is not UTF-8."));
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(malformed("A part's head is too long."));
            }
            self.more(payload).await?;
        }
    }
}

/// The boundary that a content type names.
fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let value = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"').to_owned())
    })?;
    (1..=200).contains(&value.len()).then_some(value)
}

/// Name and file name of a part.
fn disposition(head: &str) -> Option<(String, Option<String>)> {
    let value = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    })?;
    let mut rest = value.split_once(';')?.1;
    let (mut name, mut filename) = (None, None);
    while let Some((key, tail)) = rest.split_once('=') {
        let tail = tail.trim_start();
        let (value, after) = match tail.strip_prefix('"') {
            Some(quoted) => quoted_value(quoted),
            None => match tail.split_once(';') {
                Some((value, after)) => (value.trim().to_owned(), after),
                None => (tail.trim().to_owned(), ""),
            },
        };
        match key.trim().trim_start_matches(';').trim() {
            key if key.eq_ignore_ascii_case("name") => name = Some(value),
            key if key.eq_ignore_ascii_case("filename") => filename = Some(value),
            _ => {}
        }
        rest = after;
    }
    Some((name?, filename))
}

/// A quoted value, and what follows its closing quote.
fn quoted_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

/// Where `needle`, which begins with `\r`, first lies.
fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = hay[from..].iter().position(|byte| *byte == b'\r') {
        let at = from + at;
        if hay[at..].starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a form that comes in pieces of `step` bytes.
    async fn read(text: &str, step: usize) -> Result<(Form, Vec<u8>)> {
        let pieces = text.as_bytes().chunks(step).map(Bytes::copy_from_slice).collect();
        let mut payload = Payload::of_pieces(pieces);
        let mut form = Form::begin("multipart/form-data; boundary=\"xx\"", &mut payload).await?;
        let mut file = Vec::new();
        while let Some(bytes) = form.next(&mut payload).await? {
            file.extend_from_slice(&bytes);
        }
        Ok((form, file))
    }

    #[tokio::test]
    async fn a_form_is_read_whatever_pieces_it_comes_in() {
        let text = "--xx\r\nContent-Disposition: form-data; name=\"Key\"\r\n\r\na/${filename}\r\n--xx\r\n\
                    Content-Disposition: form-data; name=empty\r\n\r\n\r\n--xx\r\n\
                    Content-Disposition: form-data; name=\"file\"; filename=\"a \\\"b\\\".txt\"\r\n\
                    Content-Type: text/plain\r\n\r\nhello\r\n--x\r\nworld\r\n\r\n--xx--\r\n";
        for step in [1, 2, 3, 7, 50, 1000] {
            let (form, file) = read(text, step).await.unwrap();
            assert_eq!(form.get("key"), Some("a/${filename}"), "{step}");
            assert_eq!(form.get("empty"), Some(""), "{step}");
            assert_eq!(form.filename, "a \"b\".txt");
            assert_eq!(file, b"hello\r\n--x\r\nworld\r\n", "{step}");
        }
    }

    #[tokio::test]
    async fn bad_forms_are_refused_within_bounds() {
        let field = |size: usize| {
            format!("--xx\r\nContent-Disposition: form-data; name=\"k\"\r\n\r\n{}\r\n--xx--", "v".repeat(size))
        };
        for (text, code) in [
            (String::new(), Code::MalformedPOSTRequest),
            ("--xx\r\n\r\n\r\nv\r\n--xx--".to_owned(), Code::MalformedPOSTRequest),
            (field(3), Code::InvalidArgument),
            (field(FIELDS_BYTES_MAX * 2), Code::MaxMessageLengthExceeded),
            ("y".repeat(100_000), Code::MaxMessageLengthExceeded),
            ("--xx\r\nContent-Disposition: form-data; name=file\r\n\r\nno end".to_owned(), Code::MalformedPOSTRequest),
        ] {
            assert_eq!(read(&text, 4096).await.err().map(|error| error.code), Some(code), "{text:.60}");
        }
        assert!(Form::begin("text/plain", &mut Payload::of_pieces(Default::default())).await.is_err());
    }
}
