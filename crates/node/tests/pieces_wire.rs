//! The bytes of version 1 of what nodes ask of each other's drives, for ever; and what hostile bytes do.
#![allow(missing_docs, clippy::unwrap_used)]

use base::{DriveId, PieceId, SegmentId, Wall};
use bytes::Bytes;
use codec::Versioned;
use node::remote::message::{Ask, DriveHealth, Info, PART_BYTES_MAX, Part, State, Told, WriteId, stretch_bytes, sums};

const DRIVE: DriveId = DriveId([0xd1; 16]);

fn piece(index: u8) -> PieceId {
    PieceId { segment: SegmentId([0x5e; 16]), index }
}

fn part(header: Option<(u32, u64)>) -> Part {
    let (write, cell_bytes, sums) = (WriteId([0x77; 16]), 65_552, vec![0x1122_3344_5566_7788, 9]);
    Part { write, piece: piece(3), cell_bytes, len_max: 300_000, offset: 131_104, len: 70_000, sums, header }
}

fn health(state: State) -> DriveHealth {
    DriveHealth {
        drive: DRIVE,
        state,
        full: true,
        free: 1,
        total: 2,
        pieces: 3,
        live_bytes: 4,
        trash_pieces: 5,
        trash_bytes: 6,
        read_errors: 7,
        lost_logs: 8,
    }
}

fn asks() -> Vec<(&'static str, Ask)> {
    vec![
        ("ask put", Ask::Put(DRIVE, part(None))),
        ("ask put last", Ask::Put(DRIVE, part(Some((500, 0xabcd))))),
        ("ask read", Ask::Read(DRIVE, piece(3), 65_552, 131_104)),
        ("ask header", Ask::Header(DRIVE, piece(3))),
        ("ask stat", Ask::Stat(DRIVE, piece(3))),
        ("ask contains", Ask::Contains(DRIVE, vec![piece(0), piece(1)])),
        ("ask delete", Ask::Delete(DRIVE, vec![WriteId([0x77; 16])], vec![piece(2)])),
        ("ask list", Ask::List(DRIVE, 7 << 32 | 5, 100)),
        ("ask health", Ask::Health(vec![DRIVE])),
    ]
}

fn tolds() -> Vec<(&'static str, Told)> {
    let info = Info { len: 300_000, cell_bytes: 65_552, expiry: Some(Wall(1_800_000_000_000)) };
    let states = [State::Ok, State::ReadOnly("ro".into()), State::Failed("eio".into()), State::Away];
    vec![
        ("told put", Told::Put(201_104, true)),
        ("told read", Told::Read(vec![1, 2, 3])),
        ("told header", Told::Header(0x99)),
        ("told stat", Told::Stat(info)),
        ("told contains", Told::Contains(vec![true, false])),
        ("told delete", Told::Delete(2)),
        ("told list", Told::List(vec![(piece(1), info), (piece(2), Info { expiry: None, ..info })], Some(9))),
        ("told health", Told::Health(states.map(health).to_vec())),
    ]
}

fn encodings() -> Vec<(&'static str, Vec<u8>)> {
    let asks = asks().into_iter().map(|(name, ask)| (name, ask.encode()));
    asks.chain(tolds().into_iter().map(|(name, told)| (name, told.encode()))).collect()
}

#[test]
fn version_1_has_these_bytes_for_ever() {
    let lines = encodings().into_iter().map(|(name, bytes)| format!("{name}: {}\n", base::ids::hex(&bytes)));
    let now: String = lines.collect();
    assert_eq!(now, include_str!("pieces-v1.txt"));
    for (name, ask) in asks() {
        assert_eq!(Ask::decode(&ask.encode()), Ok(ask), "{name}");
    }
    for (name, told) in tolds() {
        assert_eq!(Told::decode(&told.encode()), Ok(told), "{name}");
    }
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn hostile_bytes_are_errors_and_never_panics() {
    let mut state = 7;
    for (_, whole) in encodings() {
        for end in 0..whole.len() {
            assert!(Ask::decode(&whole[..end]).is_err() && Told::decode(&whole[..end]).is_err());
        }
        for _ in 0..3000 {
            let mut bytes = whole.clone();
            for _ in 0..=next(&mut state) % 4 {
                let at = next(&mut state) as usize % bytes.len();
                bytes[at] = next(&mut state) as u8;
            }
            // What is still read is written the same way again.
            if let Ok(ask) = Ask::decode(&bytes) {
                assert_eq!(ask.encode(), bytes);
            }
            if let Ok(told) = Told::decode(&bytes)
                && let Ok(again) = Told::decode(&told.encode())
            {
                assert_eq!(told, again);
            }
        }
    }
    for _ in 0..20_000 {
        let mut bytes = if next(&mut state).is_multiple_of(2) { b"AbPq\x01".to_vec() } else { b"AbPa\x01".to_vec() };
        bytes.push((next(&mut state) % 10) as u8);
        bytes.extend((0..next(&mut state) % 80).map(|_| next(&mut state) as u8 & 3));
        let _ = (Ask::decode(&bytes), Told::decode(&bytes));
    }
}

#[test]
fn parts_that_contradict_themselves_are_refused() {
    let refused = |change: &dyn Fn(&mut Part)| {
        let mut part = part(None);
        change(&mut part);
        assert!(Ask::decode(&Ask::Put(DRIVE, part).encode()).is_err());
    };
    refused(&|part| part.cell_bytes = 0);
    refused(&|part| part.len = PART_BYTES_MAX + 1);
    refused(&|part| part.len_max = 201_103);
    refused(&|part| part.offset = u64::MAX);
    refused(&|part| part.sums.push(1));
    refused(&|part| part.header = Some((u32::MAX, 0)));
}

#[test]
fn a_head_with_the_most_of_everything_fits_its_frame() {
    let most = wire::frame::HEAD_BYTES_MAX;
    let pieces = vec![piece(0); node::remote::message::MANY_MAX];
    let writes = vec![WriteId([1; 16]); node::remote::message::MANY_MAX];
    assert!(Ask::Delete(DRIVE, writes, pieces.clone()).encode().len() <= most);
    let info = Info { len: 1, cell_bytes: 1, expiry: Some(Wall(1)) };
    let listed = pieces.into_iter().map(|piece| (piece, info)).collect();
    assert!(Told::List(listed, Some(1)).encode().len() <= most);
    let drives = vec![health(State::Failed("x".repeat(5000))); node::remote::message::DRIVES_MAX];
    assert!(Told::Health(drives).encode().len() <= most);
    let count = PART_BYTES_MAX.div_ceil(stretch_bytes(4096)) as usize;
    let part = Part { cell_bytes: 4096, len_max: 1 << 30, len: PART_BYTES_MAX, sums: vec![0; count], ..part(None) };
    let ask = Ask::Put(DRIVE, part);
    assert!(ask.encode().len() <= most && Ask::decode(&ask.encode()) == Ok(ask));
}

#[test]
fn checksums_are_of_whole_cells_however_the_bytes_come() {
    assert_eq!([1, 1266, 4096, 4097, 65_552].map(stretch_bytes), [4096, 5064, 4096, 4097, 65_552]);
    let bytes = Bytes::from((0..100_000u32).map(|at| (at * 7) as u8).collect::<Vec<_>>());
    let whole: Vec<u64> = bytes.chunks(5064).map(codec::crc64).collect();
    for size in [1, 1000, 5064, 70_000, 100_000] {
        let parts: Vec<Bytes> =
            (0..bytes.len()).step_by(size).map(|at| bytes.slice(at..(at + size).min(100_000))).collect();
        assert_eq!(sums(&parts, 5064), whole);
    }
    assert_eq!(sums(&[], 4096), Vec::<u64>::new());
    assert_eq!(sums(&[bytes.slice(..8192)], 4096).len(), 2);
}
