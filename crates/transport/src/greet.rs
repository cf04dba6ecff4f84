//! The first words on a stream, from both sides.

use std::ops::RangeInclusive;

use base::{Epoch, NodeId};
use bytes::Bytes;
use wire::frame::Kind;
use wire::greet::{Class, Hello, Instance, Intent, Refused, Welcome};

use crate::carrier::Secured;
use crate::error::{Error, Result};
use crate::framed::{FrameReader, FrameWriter, Heard, split};

/// A stream of class `class` to somebody who let us in.
pub(crate) struct Greeted {
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
    pub(crate) welcome: Welcome,
}

/// What the dialling side says of itself.
pub(crate) struct Introduction {
    pub(crate) versions: RangeInclusive<u16>,
    pub(crate) class: Class,
    pub(crate) instance: Instance,
    pub(crate) epoch: Epoch,
    pub(crate) intent: Intent,
}

/// Says hello and waits for the answer. The caller limits the time. `node` is who should answer.
pub(crate) async fn introduce(
    secured: Secured,
    heard: Heard,
    introduction: Introduction,
    node: Option<NodeId>,
) -> Result<Greeted> {
    let Introduction { versions, class, instance, epoch, intent } = introduction;
    let address = secured.address.to_string();
    let (mut reader, mut writer) = split(secured.stream, heard);
    let hello = Hello { versions: versions.clone(), class, instance, epoch, intent };
    writer.push(Kind::Hello, false, 0, [Bytes::from(hello.encode())]);
    writer.flush().await?;
    let welcome = loop {
        let frame = match reader.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(Error::Cut { .. }) => return Err(Error::ToldNothing { address }),
            Err(error) => return Err(error),
        };
        match frame.header.kind {
            Kind::Welcome => break Welcome::decode(&frame.payload)?,
            Kind::Refused => {
                return Err(Error::Refused { address, reason: Refused::decode(&frame.payload)? });
            }
            Kind::Unknown(_) => {}
            other => return Err(Error::Protocol(format!("{other:?} came instead of a welcome"))),
        }
    };
    if !versions.contains(&welcome.version) {
        return Err(Error::Protocol(format!("version {} was agreed on without us", welcome.version)));
    }
    if node.is_some_and(|node| node != welcome.node) {
        return Err(Error::Protocol(format!("{} answers with another node's key", welcome.node)));
    }
    Ok(Greeted { reader, writer, welcome })
}

/// Waits for the other side's hello. `None` if it says anything else, or nothing.
pub(crate) async fn listen(reader: &mut FrameReader) -> Option<Hello> {
    match reader.next().await {
        Ok(Some(frame)) if frame.header.kind == Kind::Hello => Hello::decode(&frame.payload).ok(),
        _ => None,
    }
}
