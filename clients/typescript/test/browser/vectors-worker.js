// A service worker that holds this package against the vectors, with the browser's WebCrypto.
import * as nocturne from "../../dist/index.js";
import { fromBase64url } from "../../dist/bytes.js";
import { deviceKeys, inWords } from "../keys.js";

self.addEventListener("message", (event) => {
  const answer = async () => event.source.postMessage(await differences(event.data));
  event.waitUntil(answer());
});

/** What is not as it should be. */
async function differences(vectors) {
  const found = [];
  const expect = async (comment, actual, expected) => {
    const value = await Promise.resolve(actual).catch((error) => error.problem ?? String(error));
    if (canonical(value) !== canonical(expected)) {
      found.push(`${comment}: ${canonical(value)} is not ${canonical(expected)}`);
    }
  };
  for (const { comment, secret, n, room_id, event_id, r, e } of vectors.tags) {
    await expect(comment, nocturne.matchRoom(n, r, secret, ["!a", room_id]), room_id);
    await expect(comment, nocturne.matchEvent(n, e, secret, ["$a", event_id]), event_id);
  }
  for (const { comment, keys, p, json } of vectors.blobs) {
    await expect(comment, nocturne.openBlob(p, deviceKeys(keys)), json);
  }
  for (const { comment, keys, p, problem } of vectors.broken_blobs) {
    await expect(comment, nocturne.openBlob(p, deviceKeys(keys)), problem);
  }
  for (const { comment, keys, rooms, events, push, opened, about } of vectors.pushes) {
    if (opened === undefined) {
      const understood = nocturne.understand(push, deviceKeys(keys), rooms, events);
      await expect(comment, understood.then(inWords), about);
    } else {
      const body = fromBase64url(push.body, "body", "form");
      const message = nocturne.openMessage(body, deviceKeys(keys));
      await expect(comment, message.then(nocturne.understandMessage).then(inWords), about);
    }
  }
  const { gateway_keys, unusable_gateway_keys, sealed } = vectors.pushkeys;
  const pushkey = nocturne.sealPushkey("token", "app", gateway_keys);
  await expect("a sealed pushkey", pushkey.then(({ length }) => length), sealed[0].pushkey.length);
  for (const { comment, answer } of unusable_gateway_keys) {
    await expect(comment, nocturne.sealPushkey("token", "app", answer), "keys");
  }
  const made = nocturne.generateKeys({ blob: true, secret: true }).then(nocturne.pusherData);
  await expect("new keys", made.then(Object.keys), ["v", "secret", "p256dh", "auth"]);
  return found;
}

/** JSON with members in one order. */
function canonical(value) {
  return JSON.stringify(value, (_, member) =>
    member?.constructor === Object ? Object.fromEntries(Object.entries(member).sort()) : member,
  );
}
