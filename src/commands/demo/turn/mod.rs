//! What somebody who listens on the wire, the other side and the relay's operator see of a call.
//!
//! [`stage`] has everybody who takes part, [`client`] what WebRTC does of TURN, [`wire`] what a listener has.
//! What was recorded is judged by [`verdict`] and shown by [`page`].

mod client;
mod page;
mod stage;
mod verdict;
mod wire;

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use self::{
    client::{Client, Credential, Relayed, allocate_request},
    stage::Stage,
    wire::Packet,
};
use super::{Played, paper::Paper};

const ALICE: &str = "@alice:example.org";
// no name as short as could be found in random bytes
const BOB: &str = "@bob.miller:example.org";
/// Where they are, on systems where all of 127.0.0.0/8 is this machine.
const ALICES_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const BOBS_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Longer than any step takes on loopback.
const PATIENCE: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
/// Bytes of a packet of sound.
const SOUND: usize = 160;

/// Everything that was recorded.
#[derive(Clone, Debug)]
struct Call {
    alice: Person,
    bob: Person,
    /// Alice's credential an hour later.
    later: Credential,
    /// Alice on the next day.
    next_day: Person,
    /// What a homeserver would have told Alice instead.
    homeservers: Credential,
    /// What her client would have sent with that.
    would_be: Vec<u8>,
    /// When she fetched hers, in seconds since 1970.
    fetched_at: u64,
    /// What she sent to Bob.
    question: [u8; SOUND],
    /// What he sent to her.
    answer: [u8; SOUND],
    /// Whom the homeserver was asked about.
    asked: Vec<String>,
    metrics: String,
    log: String,
}

/// One of the two, after the call.
#[derive(Clone, Debug)]
struct Person {
    user: &'static str,
    credential: Credential,
    /// Where the client is.
    address: SocketAddr,
    /// Where others reach it.
    relayed: SocketAddr,
    /// All that went over its wire.
    packets: Vec<Packet>,
    /// All messages that it read, out of TLS.
    read: Vec<Vec<u8>>,
    /// What came from the other.
    got: Vec<Relayed>,
}

/// Makes the call, and tells who saw what of it.
pub(super) async fn play(paper: &Paper) -> Result<Played, String> {
    let call = perform().await?;
    Ok(Played {
        story: page::story(&call, paper),
        conclusion: page::conclusion(&call, paper),
        checks: verdict::checks(&call),
    })
}

async fn perform() -> Result<Call, String> {
    let stage = step("the relay starts", Stage::set()).await?;
    let tokens = [ALICE, BOB].map(|user| stage.homeserver.log_in(user));
    let fetched_at = stage.clock.unix_seconds();
    let (mut alice, mut bob) = connect(&stage, &tokens).await?;
    let relayed_alice = step("Alice's client allocates over UDP", alice.allocate()).await?;
    let relayed_bob = step("Bob's client allocates over TLS", bob.allocate()).await?;
    let homeservers = stage.homeservers_credential(ALICE);
    let challenge = alice
        .challenge()
        .ok_or("the relay asked Alice for nothing")?;
    let would_be = allocate_request(&homeservers, challenge, &stage.random);

    let (question, answer) = (stage.random.bytes(), stage.random.bytes());
    let to_bob = alice.bind_channel(relayed_bob);
    step("Alice's client binds a channel to Bob's", to_bob).await?;
    let permission = bob.permit(relayed_alice.ip());
    step("Bob's client permits Alice's", permission).await?;
    step("Alice's client sends to Bob's", alice.send(&question)).await?;
    let at_bob = step("Alice's packet gets to Bob", bob.relayed()).await?;
    let back = bob.send_to(relayed_alice, &answer);
    step("Bob's client sends to Alice's", back).await?;
    let at_alice = step("Bob's packet gets to Alice", alice.relayed()).await?;
    step("Alice's client hangs up", alice.hang_up()).await?;
    step("Bob's client hangs up", bob.hang_up()).await?;
    step("Bob's client ends its connection", bob.close()).await?;

    stage.clock.advance(HOUR);
    let later = fetch(&stage, "an hour later Alice", &tokens[0]).await?;
    stage.clock.advance(DAY);
    let next_day = call_again(&stage, &tokens[0]).await?;
    let metrics = step("the relay tells what it counted", stage.metrics()).await?;
    let asked = stage.homeserver.seen();
    let log = step("the relay stops", stage.strike()).await?;
    Ok(Call {
        alice: Person::new(ALICE, &alice, relayed_alice, vec![at_alice]),
        bob: Person::new(BOB, &bob, relayed_bob, vec![at_bob]),
        later,
        next_day,
        homeservers,
        would_be,
        fetched_at,
        question,
        answer,
        asked: asked.into_iter().map(|seen| seen.device).collect(),
        metrics,
        log,
    })
}

/// Both get credentials, and connect to the relay that these name.
async fn connect(stage: &Stage, tokens: &[String; 2]) -> Result<(Client, Client), String> {
    let [alice, bob] = tokens;
    let of_alice = fetch(stage, "Alice", alice).await?;
    let of_bob = fetch(stage, "Bob", bob).await?;
    let alice = stage.udp(ALICES_ADDRESS, of_alice);
    let bob = stage.tls(BOBS_ADDRESS, of_bob);
    Ok((
        step("Alice's client opens a socket", alice).await?,
        step("Bob's client connects over TLS", bob).await?,
    ))
}

/// Alice on the next day, as far as to an allocation.
async fn call_again(stage: &Stage, token: &str) -> Result<Person, String> {
    let credential = fetch(stage, "the day after Alice", token).await?;
    let socket = stage.udp(ALICES_ADDRESS, credential);
    let mut alice = step("Alice's client opens another socket", socket).await?;
    let relayed = step("Alice's client allocates the day after", alice.allocate()).await?;
    step("Alice's client hangs up the day after", alice.hang_up()).await?;
    Ok(Person::new(ALICE, &alice, relayed, Vec::new()))
}

async fn fetch(stage: &Stage, who: &str, token: &str) -> Result<Credential, String> {
    step(
        &format!("{who} fetches credentials"),
        stage.credential(token),
    )
    .await
}

/// One step of the story, which has to work, and soon.
async fn step<T>(name: &str, act: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    step_within(PATIENCE, name, act).await
}

async fn step_within<T>(
    limit: Duration,
    name: &str,
    act: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    match tokio::time::timeout(limit, act).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(problem)) => Err(format!("the step \"{name}\" failed: {problem}")),
        Err(_) => Err(format!("the step \"{name}\" was not done within {limit:?}")),
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "that is how `map_err` gives it"
)]
fn text(error: impl ToString) -> String {
    error.to_string()
}

impl Person {
    fn new(user: &'static str, client: &Client, relayed: SocketAddr, got: Vec<Relayed>) -> Self {
        Self {
            user,
            credential: client.credential().clone(),
            address: client.address(),
            relayed,
            packets: client.packets(),
            read: client.read().to_vec(),
            got,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_step_that_fails_or_hangs_is_named() {
        let refused = async { Err::<(), _>("refused".to_owned()) };
        let problem = step("Alice allocates", refused)
            .await
            .expect_err("it fails");
        assert_eq!(problem, "the step \"Alice allocates\" failed: refused");
        let endless = std::future::pending::<Result<(), _>>();
        let problem = step_within(Duration::from_millis(1), "Bob waits", endless).await;
        let problem = problem.expect_err("it does not end");
        assert_eq!(problem, "the step \"Bob waits\" was not done within 1ms");
    }
}
