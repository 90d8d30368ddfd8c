import assert from "node:assert/strict";
import { test } from "node:test";

import {
  eventTag,
  matchEvent,
  matchRoom,
  openBlob,
  openMessage,
  pusherData,
  roomTag,
  sealPushkey,
  understand,
  understandMessage,
} from "../dist/index.js";
import { fromBase64url } from "../dist/bytes.js";
import { seal } from "../dist/hpke.js";
import { sealPushkeyWith } from "../dist/pushkey.js";
import { deviceKeys, inWords, problem, vectors } from "./vectors.js";

const bytes = (text) => fromBase64url(text, "a vector", "form");

test("a pusher gets the object that the gateway reads", async (t) => {
  for (const { comment, keys, nocturne } of vectors.pusher_data) {
    await t.test(comment, () => assert.deepEqual(pusherData(deviceKeys(keys)), nocturne));
  }
});

test("keys that the gateway would not take are not given to it", async (t) => {
  for (const { comment, data, ignored } of vectors.device_keys) {
    const object = data.nocturne ?? data.default_payload?.nocturne;
    if (ignored !== "malformed" || object?.v !== 1 || ("p256dh" in object && !object.auth)) {
      continue; // no object that this package could make
    }
    const keys = deviceKeys({ private_key: "", ...object });
    await t.test(comment, () => assert.throws(() => pusherData(keys), problem("keys")));
  }
});

test("tags lead to their room and event", async (t) => {
  for (const { comment, secret, n, room_id, event_id, r, e } of vectors.tags) {
    await t.test(comment, async () => {
      assert.equal(await roomTag(n, secret, room_id), r);
      assert.equal(await eventTag(n, secret, event_id), e);
      assert.equal(await matchRoom(n, r, secret, ["!a", room_id, "!b"]), room_id);
      assert.equal(await matchEvent(n, e, secret, new Set(["$a", event_id])), event_id);
      assert.equal(await matchRoom(n, `${r}==`, secret, [room_id]), room_id);
      assert.equal(await matchRoom(n, r, secret, ["!a"]), undefined);
      assert.equal(await matchEvent(n, r, secret, [room_id]), undefined);
    });
  }
});

test("blobs open", async (t) => {
  for (const { comment, keys, p, json } of vectors.blobs) {
    await t.test(comment, async () => {
      assert.deepEqual(await openBlob(p, deviceKeys(keys)), json);
    });
  }
});

test("what is no blob for this device does not open", async (t) => {
  for (const { comment, keys, p, problem: kind } of vectors.broken_blobs) {
    await t.test(comment, async () => {
      await assert.rejects(openBlob(p, deviceKeys(keys)), problem(kind));
    });
  }
});

/** A key pair whose private key is known: not what an app has. */
async function ephemeral(text) {
  // RFC 8410: the 32 bytes are the end of the PKCS#8 form
  const pkcs8 = Buffer.concat([Buffer.from("302e020100300506032b656e04220420", "hex"), bytes(text)]);
  const key = await crypto.subtle.importKey("pkcs8", pkcs8, "X25519", true, ["deriveBits"]);
  const { x } = await crypto.subtle.exportKey("jwk", key);
  return { privateKey: key, publicKey: bytes(x) };
}

test("pushkeys are sealed to the byte as the gateway opens them", async (t) => {
  const { sealed, info } = vectors.pushkeys;
  assert.equal(info, "nocturne pushkey v1");
  for (const { comment, token, app_id, public_key, ephemeral_private_key, pushkey } of sealed) {
    await t.test(comment, async () => {
      const pair = await ephemeral(ephemeral_private_key);
      assert.equal(await sealPushkeyWith(pair, token, app_id, bytes(public_key)), pushkey);
    });
  }
});

test("pushkeys are sealed to the newest key, each time anew", async () => {
  const { gateway_keys, sealed } = vectors.pushkeys;
  const pushkeys = [];
  for (let round = 0; round < 2; round += 1) {
    pushkeys.push(await sealPushkey("token", "org.example.app", gateway_keys));
  }
  const [first, second] = pushkeys;
  assert.notEqual(first, second);
  assert.equal(first.length, sealed[0].pushkey.length);
  assert.equal(bytes(first.slice(4))[0], gateway_keys.keys[0].id);
});

test("a token that is too long is not sealed", async () => {
  const { too_long_token, gateway_keys } = vectors.pushkeys;
  await assert.rejects(sealPushkey(too_long_token, "app", gateway_keys), problem("too_long"));
});

test("nothing is sealed to a key that cannot be used", async (t) => {
  for (const { comment, answer } of vectors.pushkeys.unusable_gateway_keys) {
    await t.test(comment, async () => {
      await assert.rejects(sealPushkey("token", "app", answer), problem("keys"));
    });
  }
});

test("whole pushes are understood", async (t) => {
  for (const { comment, provider, keys, rooms, events, push, opened, about } of vectors.pushes) {
    await t.test(`${provider}: ${comment}`, async () => {
      if (opened === undefined) {
        assert.deepEqual(inWords(await understand(push, deviceKeys(keys), rooms, events)), about);
        return;
      }
      const message = await openMessage(bytes(push.body), deviceKeys(keys));
      assert.deepEqual(message, opened);
      assert.deepEqual(inWords(understandMessage(message)), about);
    });
  }
});

test("HPKE is that of RFC 9180, appendix A.1.1", async () => {
  const hex = (text) => Uint8Array.from(Buffer.from(text, "hex"));
  const own = hex("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736");
  const { enc, ciphertext } = await seal(
    await ephemeral(Buffer.from(own).toString("base64url")),
    hex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d"),
    Uint8Array.from(Buffer.from("Ode on a Grecian Urn")),
    Uint8Array.from(Buffer.from("Count-0")),
    Uint8Array.from(Buffer.from("Beauty is truth, truth beauty")),
  );
  assert.deepEqual(enc, hex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"));
  assert.deepEqual(
    ciphertext,
    hex(
      "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a",
    ),
  );
});
