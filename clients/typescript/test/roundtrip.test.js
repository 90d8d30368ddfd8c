import assert from "node:assert/strict";
import { test } from "node:test";

import {
  generateKeys,
  openBlob,
  openMessage,
  pusherData,
  roomTag,
  sealPushkey,
  understand,
  understandMessage,
} from "../dist/index.js";
import { problem, vectors } from "./vectors.js";
import { encrypt } from "./webpush.js";

const N = "AAECAwQFBgcICQoLDA0ODw";
const ROOM = "!room:example.org";

test("new keys survive storage and open what is sealed to them", async () => {
  const keys = JSON.parse(JSON.stringify(await generateKeys()));
  const { v, p256dh, auth, ...more } = pusherData(keys);
  assert.deepEqual([v, more], [1, {}]);
  assert.ok(!JSON.stringify(pusherData(keys)).includes(keys.blob.privateKey));
  const sealed = { v: 1, room_id: ROOM, prio: "high", ts: 1, content: { body: "Grüße 🌙" } };
  const p = encrypt(JSON.stringify(sealed), { p256dh, auth }).toString("base64url");
  assert.deepEqual(await openBlob(p, keys), sealed);
  assert.deepEqual(await understand({ aps: {}, n: N, p }, keys, []), {
    kind: "sealed",
    n: N,
    notification: sealed,
  });
  await assert.rejects(openBlob(p, await generateKeys()), problem("sealed"));
});

test("no two devices get the same keys", async () => {
  const all = await Promise.all([1, 2].map(() => generateKeys({ blob: true, secret: true })));
  const strings = all.flatMap(({ secret, blob }) => [secret, ...Object.values(blob)]);
  assert.equal(new Set(strings).size, 8);
});

test("a private key may stay in WebCrypto", async () => {
  const { blob } = await generateKeys();
  const point = Buffer.from(blob.p256dh, "base64url");
  const [x, y] = [point.subarray(1, 33), point.subarray(33)].map((half) => half.toString("base64url"));
  const privateKey = await crypto.subtle.importKey(
    "jwk",
    { kty: "EC", crv: "P-256", d: blob.privateKey, x, y },
    { name: "ECDH", namedCurve: "P-256" },
    false,
    ["deriveBits"],
  );
  const message = encrypt('{"v":1}', blob);
  assert.deepEqual(await openMessage(message, { blob: { ...blob, privateKey } }), { v: 1 });
});

test("a message may lie anywhere in a larger buffer", async () => {
  const keys = await generateKeys();
  const message = encrypt('{"v":1}', keys.blob);
  const larger = Buffer.concat([Buffer.from("before"), message, Buffer.from("after")]);
  const view = new Uint8Array(larger.buffer, larger.byteOffset + 6, message.length);
  assert.deepEqual(await openMessage(view, keys), { v: 1 });
});

test("without padding, too", async () => {
  const keys = await generateKeys();
  assert.deepEqual(await openMessage(encrypt("{}", keys.blob, 3), keys), {});
});

test("tags are found in thousands of rooms", async () => {
  const { secret, blob } = await generateKeys({ secret: true });
  assert.equal(blob, undefined);
  const rooms = Array.from({ length: 3000 }, (_, number) => `!${number}:example.org`);
  const r = await roomTag(N, secret, rooms.at(-1));
  const about = await understand({ n: N, r, e: r }, { secret }, rooms, []);
  assert.deepEqual(about, { kind: "tags", n: N, roomId: rooms.at(-1), eventId: undefined });
});

test("a push for keys that the device has lost says so", async () => {
  const keys = await generateKeys();
  const p = encrypt('{"v":1}', keys.blob).toString("base64url");
  await assert.rejects(understand({ n: N, p }, {}, []), problem("keys"));
  await assert.rejects(understand({ n: N, r: N }, {}, []), problem("keys"));
  assert.deepEqual(await understand({ n: N }, {}, []), { kind: "wake", n: N });
});

test("keys that are none are told apart from pushes that are none", async () => {
  const { blob } = await generateKeys();
  const other = (await generateKeys()).blob;
  const p = encrypt('{"v":1}', blob).toString("base64url");
  for (const changed of [
    { auth: "AAAA" },
    { auth: "!" },
    { privateKey: "AAAA" },
    { privateKey: other.privateKey },
    { p256dh: `B${"A".repeat(86)}` },
    { p256dh: "AAAA" },
  ]) {
    await assert.rejects(openBlob(p, { blob: { ...blob, ...changed } }), problem("keys"));
  }
});

test("only what was sealed is taken for sealed", async () => {
  const forged = { v: 1, room_id: ROOM, prio: "high", ts: 1, content: { body: "from the provider" } };
  const about = await understand({ aps: {}, ...forged }, {}, []);
  assert.deepEqual(about, { kind: "clear", roomId: ROOM });
});

test("what a push server passes on in clear is understood as such", () => {
  const message = { notification: { event_id: "$e", room_id: ROOM, counts: { unread: 1 } } };
  assert.deepEqual(understandMessage(message), { kind: "clear", eventId: "$e", roomId: ROOM });
  assert.deepEqual(understandMessage({ notification: { counts: { unread: 1 } } }), { kind: "wake" });
  assert.throws(() => understandMessage({ v: 2, prio: "high" }), problem("version"));
});

test("where WebCrypto lacks X25519, the error says so", async (t) => {
  const { generateKey } = crypto.subtle;
  t.mock.method(crypto.subtle, "generateKey", function (algorithm, ...more) {
    if (algorithm.name === "X25519") {
      throw new DOMException("Unrecognized name.", "NotSupportedError");
    }
    return generateKey.call(this, algorithm, ...more);
  });
  const sealing = sealPushkey("token", "app", vectors.pushkeys.gateway_keys);
  await assert.rejects(sealing, problem("unsupported"));
});

test("errors give nothing away", async () => {
  const keys = await generateKeys({ blob: true, secret: true });
  const p = encrypt("secret text", keys.blob).toString("base64url");
  const { message } = await openBlob(p, keys).catch((error) => error);
  for (const part of ["secret text", p, keys.secret, keys.blob.privateKey]) {
    assert.ok(!message.includes(part));
  }
});
