// Two peer connections in one page of Chromium that may use relayed candidates alone: a megabyte of data and a fake
// camera go from one to the other.
//
// The one argument is JSON: {"chromium": path, "profile": folder, "calls": [{"uri", "username", "credential"}]}. Prints
// for each call one line of JSON, with what the browser's own statistics say of it.

import { Chromium } from "../../../../clients/typescript/test/browser/chromium.js";

const { chromium, profile, calls } = JSON.parse(process.argv[2]);

const browser = new Chromium(chromium, profile, [
  "--use-fake-device-for-media-stream",
  "--use-fake-ui-for-media-stream",
]);
try {
  // cameras are for pages with an origin
  const page = await browser.open(new URL("empty.html", import.meta.url).href);
  for (const server of calls) {
    const seen = await page.evaluate(`(${call})(${JSON.stringify(server)})`);
    console.log(JSON.stringify(seen));
  }
} finally {
  await browser.close();
}

/** Runs in the page. */
async function call({ uri, username, credential }) {
  const PATIENCE = 60_000;
  const SIZE = 1_000_000;
  const CHUNK = 16_384;
  const FRAMES = 30;
  const problems = [];
  let candidates = 0;

  const inTime = (what, promise) => {
    const tooLate = new Promise((_, reject) => {
      setTimeout(() => reject(new Error(`no ${what}: ${problems.join("; ")}`)), PATIENCE);
    });
    return Promise.race([promise, tooLate]);
  };
  const config = {
    iceServers: [{ urls: [uri], username, credential }],
    iceTransportPolicy: "relay",
  };
  const caller = new RTCPeerConnection(config);
  const callee = new RTCPeerConnection(config);
  for (const [from, to] of [
    [caller, callee],
    [callee, caller],
  ]) {
    from.onicecandidate = ({ candidate }) => {
      candidates += candidate === null ? 0 : 1;
      return candidate && to.addIceCandidate(candidate);
    };
    from.onicecandidateerror = ({ errorCode, errorText }) => problems.push(`${errorCode} ${errorText}`);
  }
  try {
    return await converse();
  } catch (error) {
    return { error: error.message };
  } finally {
    caller.close();
    callee.close();
  }

  async function converse() {
    // data
    const channel = caller.createDataChannel("file");
    const opened = new Promise((resolve) => {
      channel.onopen = resolve;
    });
    const received = new Promise((resolve) => {
      callee.ondatachannel = ({ channel }) => {
        const chunks = [];
        let length = 0;
        channel.binaryType = "arraybuffer";
        channel.onmessage = ({ data }) => {
          chunks.push(data);
          length += data.byteLength;
          if (length >= SIZE) {
            resolve(new Blob(chunks).arrayBuffer());
          }
        };
      };
    });
    // and a camera
    const stream = await navigator.mediaDevices.getUserMedia({ video: true });
    for (const track of stream.getTracks()) {
      caller.addTrack(track, stream);
    }
    const video = document.createElement("video");
    video.muted = true;
    document.body.append(video);
    callee.ontrack = ({ streams }) => {
      video.srcObject = streams[0];
      video.play();
    };

    await caller.setLocalDescription();
    await callee.setRemoteDescription(caller.localDescription);
    await callee.setLocalDescription();
    await caller.setRemoteDescription(callee.localDescription);

    await inTime("candidate", gathered(caller));
    if (candidates === 0) {
      throw new Error(`no candidate: ${problems.join("; ")}`);
    }
    await inTime("connection", opened);
    const file = new Uint8Array(SIZE);
    for (let start = 0; start < SIZE; start += 65_536) {
      crypto.getRandomValues(file.subarray(start, Math.min(start + 65_536, SIZE)));
    }
    for (let start = 0; start < SIZE; start += CHUNK) {
      channel.send(file.subarray(start, Math.min(start + CHUNK, SIZE)));
    }
    const arrived = await inTime("data", received);
    const digests = await Promise.all([file, arrived].map(digest));
    await inTime("video", framesAreDecoded());

    return {
      uri,
      arrivedBytes: arrived.byteLength,
      isSame: digests[0] === digests[1],
      framesDecoded: await framesDecoded(),
      pairs: [await selectedPair(caller), await selectedPair(callee)],
      problems,
    };
  }

  async function gathered(connection) {
    while (connection.iceGatheringState !== "complete" && candidates === 0) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async function digest(data) {
    return new Uint8Array(await crypto.subtle.digest("SHA-256", data)).join();
  }

  async function framesAreDecoded() {
    while ((await framesDecoded()) < FRAMES) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async function framesDecoded() {
    const stats = [...(await callee.getStats()).values()];
    return stats.find(({ type, kind }) => type === "inbound-rtp" && kind === "video")?.framesDecoded ?? 0;
  }

  async function selectedPair(connection) {
    const stats = await connection.getStats();
    const transport = [...stats.values()].find(({ type }) => type === "transport");
    const pair = stats.get(transport.selectedCandidatePairId);
    const { candidateType, protocol, relayProtocol, url } = stats.get(pair.localCandidateId);
    const remote = stats.get(pair.remoteCandidateId);
    return {
      local: { candidateType, protocol, relayProtocol, url },
      remote: { candidateType: remote.candidateType, protocol: remote.protocol },
      state: pair.state,
    };
  }
}
