//! What sealing's parts cost, each by itself and on one core: `--parts`.

use std::{fmt::Write as _, hint::black_box, time::Duration};

use anyhow::{Context as _, Result};
use push_gateway::{
    opaque::Identifier,
    sealed::{
        aes128gcm::seal,
        keys::ReceiverKeys,
        plaintext::Plaintext,
        pushkey::{PushkeyKey, PushkeyKeys},
        tags,
    },
};
use shared::random::Random;
use stand_ins::{DeviceKeys, seal_pushkey};

use crate::{notifications::base64, process::own_usage};

/// Each part is repeated until it has used so much CPU.
const ENOUGH: Duration = Duration::from_secs(1);
const APP_ID: &str = "org.example.app";

/// A table of CPU times in Markdown.
pub(crate) fn table() -> Result<String> {
    let random = Random::system();
    let device = DeviceKeys::generate()?;
    let keys = ReceiverKeys::parse(&device.p256dh(), &device.auth()).context("keys are made")?;
    let mut text = String::from("| part | CPU each |\n|---|---|\n");
    for length in [300, 800, 1800] {
        let plaintext = Plaintext::padded(vec![b'x'; length]);
        let each = cpu(|| {
            black_box(seal(&keys, &plaintext, &random)?);
            Ok(())
        })?;
        row(
            &mut text,
            &format!("sealing a notification of {} bytes", plaintext.padded_to),
            each,
        );
    }
    let secret = random.bytes();
    let each = cpu(|| {
        let n = Identifier(random.bytes());
        black_box(tags::room(&secret, n, "!OGEhHVWSdvArJzumhm:example.org"));
        black_box(tags::event(
            &secret,
            n,
            "$EVENTIDEVENTIDEVENTIDEVENTIDEVENTIDEVENTID0",
        ));
        Ok(())
    })?;
    row(&mut text, "the tags of a room and an event", each);

    let key = PushkeyKey::new(&random.bytes()).context("any 32 bytes are a key")?;
    let token = "x".repeat(163);
    let pushkey = seal_pushkey(&base64(key.public(), b'-', b'_'), APP_ID, &token)?;
    let keys = PushkeyKeys::new(vec![key]).ok().context("it is one key")?;
    let each = cpu(|| {
        let opened = keys.open(APP_ID, &pushkey).ok().flatten();
        anyhow::ensure!(opened.as_ref() == Some(&token), "the pushkey opens");
        Ok(())
    })?;
    row(&mut text, "opening a sealed pushkey", each);
    Ok(text)
}

fn row(text: &mut String, part: &str, each: Duration) {
    let _ = writeln!(text, "| {part} | {:.1} µs |", each.as_secs_f64() * 1e6);
}

/// The CPU time of one call.
fn cpu(mut part: impl FnMut() -> Result<()>) -> Result<Duration> {
    const BATCH: u32 = 500;
    for _ in 0..BATCH {
        part()?;
    }
    let before = own_usage().cpu;
    let mut calls = 0_u32;
    loop {
        for _ in 0..BATCH {
            part()?;
        }
        calls += BATCH;
        let used = own_usage().cpu.saturating_sub(before);
        if used >= ENOUGH {
            return Ok(used / calls);
        }
    }
}
