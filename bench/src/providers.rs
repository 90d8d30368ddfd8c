//! The providers: the stand-ins in a process of their own, which takes orders as lines of JSON.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use stand_ins::{Server, StandIns};

use crate::{
    Kind,
    process::{Process, Usage},
};

/// The process of the stand-ins.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where keys and certificates are written.
    directory: PathBuf,
    /// How many browsers there are.
    subscriptions: usize,
}

/// The stand-ins, seen from the benchmark.
pub(crate) struct Providers {
    process: Process,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Where they are and what opens them.
    pub(crate) access: Access,
}

/// What a gateway has to know of the stand-ins.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) apple: String,
    pub(crate) google: String,
    pub(crate) ca: PathBuf,
    pub(crate) apns_key: PathBuf,
    pub(crate) service_account: PathBuf,
    pub(crate) vapid_key: PathBuf,
    /// JSON: a list of [`Subscription`]
    subscriptions: PathBuf,
}

/// A browser's subscription.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Subscription {
    pub(crate) endpoint: String,
    pub(crate) p256dh: String,
    pub(crate) auth: String,
}

/// A request as a provider got it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Captured {
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// For connections from now on.
    Streams(Kind, u32),
    Delay(Kind, Duration),
    /// Whether the stand-ins only count.
    Quiet(bool),
    /// The last push, which must have been in order.
    Last(Kind),
}

impl Providers {
    /// Starts them; `subscriptions` browsers are subscribed.
    pub(crate) fn start(directory: &Path, subscriptions: usize) -> Result<Self> {
        let own = std::env::current_exe().context("find this executable")?;
        let mut command = Command::new(own);
        command
            .arg("providers")
            .arg(directory)
            .arg(subscriptions.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(&mut command).context("start the stand-ins")?;
        let child = process.child();
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the stand-ins have no pipes");
        };
        let mut answers = BufReader::new(answers);
        let access = read(&mut answers)?;
        Ok(Self {
            process,
            orders,
            answers,
            access,
        })
    }

    /// Makes one of them answer after so long, on connections that carry what the real one's do.
    pub(crate) fn prepare(&mut self, kind: Kind, delay: Duration) -> Result<()> {
        self.order::<()>(&Order::Streams(kind, kind.streams()))?;
        self.order(&Order::Delay(kind, delay))
    }

    /// Whether they only count, without keeping or checking more than they must.
    pub(crate) fn set_quiet(&mut self, quiet: bool) -> Result<()> {
        self.order(&Order::Quiet(quiet))
    }

    /// The last push that one of them got, if it was in order.
    pub(crate) fn last(&mut self, kind: Kind) -> Result<Captured> {
        let captured: Result<Captured, String> = self.order(&Order::Last(kind))?;
        captured.map_err(anyhow::Error::msg)
    }

    /// The browsers.
    pub(crate) fn subscriptions(&self) -> Result<Vec<Subscription>> {
        let text = fs::read(&self.access.subscriptions).context("read the subscriptions")?;
        serde_json::from_slice(&text).context("read the subscriptions")
    }

    /// What they have used up to now.
    pub(crate) fn usage(&self) -> Usage {
        self.process.usage()
    }

    fn order<T: DeserializeOwned>(&mut self, order: &Order) -> Result<T> {
        writeln!(self.orders, "{}", serde_json::to_string(order)?)
            .context("give the stand-ins an order")?;
        read(&mut self.answers)
    }
}

fn read<T: DeserializeOwned>(answers: &mut impl io::BufRead) -> Result<T> {
    let mut line = String::new();
    answers
        .read_line(&mut line)
        .context("read an answer of the stand-ins")?;
    serde_json::from_str(&line).context("the stand-ins ended, or answered nonsense")
}

/// Runs the stand-ins until standard input ends.
pub(crate) fn serve(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let stand_ins = runtime.block_on(StandIns::start())?;
    let files = stand_ins.write_files(&arguments.directory)?;
    let subscriptions = (0..arguments.subscriptions)
        .map(|_| {
            let subscription = stand_ins.push_service.subscribe()?;
            Ok(Subscription {
                endpoint: subscription.endpoint,
                p256dh: subscription.p256dh,
                auth: subscription.auth,
            })
        })
        .collect::<io::Result<Vec<_>>>()?;
    let access = Access {
        apple: stand_ins.apple.url(),
        google: stand_ins.google.url(),
        ca: files.ca,
        apns_key: files.apns_key,
        service_account: files.service_account,
        vapid_key: files.vapid_key,
        subscriptions: arguments.directory.join("subscriptions.json"),
    };
    fs::write(&access.subscriptions, serde_json::to_vec(&subscriptions)?)?;
    drop(subscriptions);
    answer(&access)?;
    for line in io::stdin().lock().lines() {
        match serde_json::from_str(&line?)? {
            Order::Streams(kind, streams) => {
                answer(&server(&stand_ins, kind).set_max_concurrent_streams(streams))?;
            }
            Order::Delay(kind, delay) => answer(&server(&stand_ins, kind).set_delay(delay))?,
            Order::Quiet(quiet) => {
                for kind in Kind::ALL {
                    server(&stand_ins, kind).set_quiet(quiet);
                }
                answer(&())?;
            }
            Order::Last(kind) => answer(&last(server(&stand_ins, kind)))?,
        }
    }
    Ok(())
}

fn server(stand_ins: &StandIns, kind: Kind) -> &Server {
    match kind {
        Kind::Apns => &stand_ins.apple,
        Kind::Fcm => &stand_ins.google,
        Kind::WebPush => &stand_ins.push_service,
    }
}

fn last(server: &Server) -> Result<Captured, String> {
    let seen = server.seen();
    server.forget();
    let Some(push) = seen.last() else {
        return Err("no push came".to_owned());
    };
    if let Some(complaint) = &push.complaint {
        return Err(format!("the push is not in order: {complaint}"));
    }
    let headers = push.headers.iter();
    Ok(Captured {
        url: format!("{}{}", server.url(), push.path),
        headers: headers
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
            .collect(),
        body: push.body.to_vec(),
    })
}

fn answer(answer: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(answer)?)?;
    out.flush()?;
    Ok(())
}
