//! 32 bytes of key as 24 English words (BIP-39), and back.

use zeroize::Zeroizing;

use crate::Error;

/// The key as words, one space between.
pub(crate) fn to_words(key: &[u8; 32]) -> String {
    match bip39::Mnemonic::from_entropy(key) {
        Ok(words) => words.to_string(),
        Err(_) => unreachable!("32 bytes are 24 words"),
    }
}

/// The reverse; case and spacing don't matter. Names the word that is in no list.
pub(crate) fn from_words(text: &str) -> Result<Zeroizing<[u8; 32]>, Error> {
    let words: Vec<Zeroizing<String>> = split(text).collect();
    if words.len() != 24 {
        return Err(Error::WordCount { count: words.len() });
    }
    let list = bip39::Language::English;
    if let Some(at) = words.iter().position(|word| list.find_word(word).is_none()) {
        return Err(Error::UnknownWord { position: at + 1, word: words[at].to_string() });
    }
    let mut line = Zeroizing::new(String::with_capacity(24 * 9));
    for word in &words {
        line.push_str(word);
        line.push(' ');
    }
    let parsed = bip39::Mnemonic::parse_in_normalized(list, line.trim_end()).map_err(|_| Error::WordChecksum)?;
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(&Zeroizing::new(parsed.to_entropy()));
    Ok(key)
}

/// The words of a text in lower case.
pub(crate) fn split(text: &str) -> impl Iterator<Item = Zeroizing<String>> {
    text.split_whitespace().map(|word| Zeroizing::new(word.to_lowercase()))
}
