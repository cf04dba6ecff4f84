//! `abide inspect`: looks into files of a store, with no store running.

use std::path::Path;

use base::ids::hex;
use client::header::PieceHeader;
use codec::Versioned;
use metastore::inspect::Content;
use serde_json::{Value, json};

use crate::args::Inspect;
use crate::ask::Done;
use crate::show::{bytes, table};

/// Files larger than this are none of ours.
const FILE_BYTES_MAX: u64 = 4 << 30;

impl Inspect {
    /// Whether the running store answers this.
    pub fn asks_the_store(&self) -> bool {
        matches!(self, Inspect::Manifest { .. })
    }
}

/// Looks into a file.
pub fn run(what: &Inspect) -> Result<Done, String> {
    match what {
        Inspect::Piece { file } => pieces(file),
        Inspect::Log { file, key_file } => log(file, key_file),
        Inspect::Manifest { .. } => unreachable!("the store answers this"),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let fail = |error: std::io::Error| format!("read {}: {error}", path.display());
    let len = std::fs::metadata(path).map_err(fail)?.len();
    if len > FILE_BYTES_MAX {
        return Err(format!("{} is too long to be a log", path.display()));
    }
    std::fs::read(path).map_err(fail)
}

/// All records of a piece log, each with what its header says.
fn pieces(path: &Path) -> Result<Done, String> {
    let data = read(path)?;
    let report = piecestore::inspect::log(&data).map_err(|error| format!("{}: {error}", path.display()))?;
    if report.number.is_none() && report.records.is_empty() {
        return Err(format!("{} is no piece log: name a file `log-…` under DRIVE/pieces", path.display()));
    }
    let mut rows = Vec::new();
    let mut answers = Vec::new();
    for record in &report.records {
        let header = piecestore::inspect::piece(&data, record.offset).ok();
        let header = header.and_then(|(header, _)| PieceHeader::decode(&header).ok());
        let kind = format!("{:?}", record.kind).to_lowercase();
        rows.push(vec![
            record.offset.to_string(),
            kind.clone(),
            record.id.to_string(),
            bytes(record.body_len.into()),
            header.as_ref().map_or(String::new(), |header| {
                format!("volume {}, {}+{}, group {}.{}", header.volume, header.k, header.m, header.policy, header.group)
            }),
            match record.extent {
                _ if !record.is_sound => "DAMAGED".into(),
                // Its body lies elsewhere: only what is here was checked.
                Some(extent) => format!("body in extents-{:08x}, extent at {}", extent.file, extent.offset()),
                None => String::new(),
            },
        ]);
        answers.push(json!({
            "offset": record.offset, "bytes": record.bytes, "kind": kind, "piece": record.id.to_string(),
            "seq": record.seq, "body_len": record.body_len, "cell_bytes": record.cell_bytes,
            "extent": record.extent.map(|extent| json!({
                "file": extent.file, "offset": extent.offset(), "blocks": extent.blocks,
            })),
            "sound": record.is_sound, "time": record.time.rfc3339(), "header": header.as_ref().map(shown),
        }));
    }
    let mut text = table(&["offset", "kind", "piece", "body", "header", ""], &rows);
    for (offset, len) in &report.gaps {
        text.push_str(&format!("\n{len} bytes at {offset} are no record"));
    }
    let good = report.gaps.is_empty() && report.records.iter().all(|record| record.is_sound);
    let answer = json!({
        "log": report.number, "footer_entries": report.footer_entries, "records": answers,
        "gaps": report.gaps.iter().map(|(offset, len)| json!({ "offset": offset, "bytes": len })).collect::<Vec<_>>(),
    });
    Ok(Done { answer, shown: text, good })
}

fn shown(header: &PieceHeader) -> Value {
    json!({
        "volume": header.volume.0, "segment": header.segment.to_string(), "index": header.index,
        "k": header.k, "m": header.m, "pack": header.pack, "len": header.len, "written": header.written.rfc3339(),
        "policy": header.policy.0, "group": header.group.0,
        "roots": header.roots.iter().map(|root| hex(root)).collect::<Vec<_>>(),
    })
}

/// All records of a metadata log.
fn log(path: &Path, key_file: &Path) -> Result<Done, String> {
    let text = std::fs::read_to_string(key_file).map_err(|error| format!("read {}: {error}", key_file.display()))?;
    let key = crypt::RootKey::from_file_text(&text).map_err(|error| format!("{}: {error}", key_file.display()))?;
    let log = metastore::inspect::log(&read(path)?, &key.meta_key())
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let mut rows = Vec::new();
    let mut answers = Vec::new();
    for record in &log.records {
        let (kind, what) = match &record.content {
            Content::Batch { batch, dropped } => (
                "batch",
                format!(
                    "{} events, {} rows put, {} removed, {} values dropped",
                    batch.events.len(),
                    batch.puts.len(),
                    batch.dels.len() + batch.range_dels.len(),
                    dropped.len()
                ),
            ),
            Content::Moved(moved) => ("moved", format!("{} values from older files", moved.len())),
            Content::Closed => ("closed", String::new()),
        };
        rows.push(vec![
            record.offset.to_string(),
            record.size.to_string(),
            record.seq.to_string(),
            kind.into(),
            what.clone(),
        ]);
        let puts = match &record.content {
            Content::Batch { batch, .. } => {
                batch.puts.iter().map(|(key, value)| json!({ "key": hex(key), "bytes": value.len() })).collect()
            }
            _ => Vec::new(),
        };
        answers.push(json!({
            "offset": record.offset, "size": record.size, "seq": record.seq.0, "kind": kind, "what": what, "puts": puts,
        }));
    }
    let mut shown = format!("shard {}, file {}, after entry {}\n", log.head.shard, log.head.number, log.head.after);
    shown.push_str(&table(&["offset", "bytes", "entry", "kind", "what"], &rows));
    if log.rest > 0 {
        shown.push_str(&format!(
            "\n{} bytes at the end are no whole record: the last write was cut short, or the file is in use",
            log.rest
        ));
    }
    let answer = json!({
        "shard": log.head.shard, "number": log.head.number, "generation": log.head.generation,
        "after": log.head.after.0, "epoch": log.head.epoch.0, "records": answers, "rest": log.rest,
    });
    Ok(Done { answer, shown, good: true })
}
