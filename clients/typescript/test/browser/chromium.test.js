// This package in a real service worker of a real browser, pushed to through a real subscription. The one part that
// is not real is Google's push service, which cannot be had without the network: push-service.js stands in for it.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createECDH, generateKeyPairSync } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { after, before, test } from "node:test";

import { vectors } from "../vectors.js";
import { encrypt } from "../webpush.js";
import { Chromium, until } from "./chromium.js";
import { PushService } from "./push-service.js";

const EXECUTABLE = process.env.NOCTURNE_CHROMIUM;
const GATEWAY = process.env.NOCTURNE_GATEWAY;
const APP_ID = "org.example.web";
const ROOT = new URL("../../", import.meta.url);

const skip = EXECUTABLE === undefined && "NOCTURNE_CHROMIUM names no Chromium";
const skipGateway = skip || (GATEWAY === undefined && "NOCTURNE_GATEWAY names no gateway");

let directory, service, site, chromium;

before(async () => {
  if (skip) {
    return;
  }
  directory = mkdtempSync(join(tmpdir(), "nocturne-"));
  service = await PushService.start(directory);
  site = await serve();
  chromium = new Chromium(EXECUTABLE, join(directory, "profile"), service.flags);
  const permission = { permission: { name: "notifications" }, setting: "granted", origin: site.url };
  await chromium.call("Browser.setPermission", permission);
});

after(async () => {
  await chromium?.close();
  site?.server.close();
  service?.close();
  if (directory !== undefined) {
    rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
  }
});

test("a service worker agrees with the gateway's vectors", { skip }, async () => {
  const page = await chromium.open(`${site.url}/`);
  const differences = await page(`(async () => {
    const options = { scope: "/test/browser/", type: "module" };
    const { installing: worker } = await navigator.serviceWorker.register(
      "/test/browser/vectors-worker.js", options);
    const answer = new Promise((resolve) => {
      navigator.serviceWorker.onmessage = ({ data }) => resolve(data);
    });
    worker.postMessage(${JSON.stringify(vectors)});
    return answer;
  })()`);
  assert.deepEqual(differences, []);
});

test("the example's service worker shows what was sealed to its subscription", { skip }, async () => {
  const { page, subscription } = await subscribe(createECDH("prime256v1").generateKeys());
  const sealed = {
    v: 1,
    room_id: "!room:example.org",
    event_id: "$event",
    prio: "high",
    ts: 1_700_000_000,
    room_name: "Mission Control",
    content: { body: "Grüße vom Mond 🌙" },
  };
  service.deliver(subscription, encrypt(JSON.stringify(sealed), subscription.keys));
  const { title, body, tag, data } = await notification(page);
  assert.deepEqual([title, body, tag], ["Mission Control", sealed.content.body, sealed.room_id]);
  assert.deepEqual(data, { room_id: sealed.room_id, event_id: "$event" });

  // mode `wake`, a later version, and what no gateway sends: never nothing
  for (const text of ['{"v":1}', '{"v":2,"room_name":"?"}', "not JSON"]) {
    service.deliver(subscription, encrypt(text, subscription.keys));
    assert.equal((await notification(page)).title, "New message");
  }
});

test("a browser reads what the gateway itself sends", { skip: skipGateway }, async () => {
  const vapid = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const { x, y } = vapid.publicKey.export({ format: "jwk" });
  const [xBytes, yBytes] = [x, y].map((half) => Buffer.from(half, "base64url"));
  const { page, subscription } = await subscribe(Buffer.concat([Buffer.of(4), xBytes, yBytes]));
  const vapidKey = join(directory, "vapid.pem");
  writeFileSync(vapidKey, vapid.privateKey.export({ type: "pkcs8", format: "pem" }), { mode: 0o600 });
  const gateway = await startGateway({
    [APP_ID]: {
      type: "webpush",
      payload: "opaque",
      vapid_private_key: vapidKey,
      vapid_contact_email: "push@example.org",
      opaque: { sealed_content: true },
    },
  });
  try {
    // the pusher as the example registers it, but for Google's name in the endpoint
    const { app_id, pushkey, data } = await page(`(async () => {
      const { pusher } = await import("./pusher.js");
      const { pushManager } = await navigator.serviceWorker.ready;
      return pusher(await pushManager.getSubscription(), "${APP_ID}", "https://push.example.org");
    })()`);
    assert.equal(data.url, "https://push.example.org/_matrix/push/v1/notify");
    assert.equal(data.endpoint, subscription.endpoint);
    data.endpoint = service.endpoint(subscription);
    const answer = await fetch(`${gateway.url}/_matrix/push/v1/notify`, {
      method: "POST",
      body: JSON.stringify({
        notification: {
          event_id: "$event",
          room_id: "!room:example.org",
          type: "m.room.message",
          sender: "@alice:example.org",
          room_name: "Mission Control",
          content: { msgtype: "m.text", body: "Grüße vom Mond 🌙" },
          counts: { unread: 2 },
          devices: [{ app_id, pushkey, data }],
        },
      }),
    });
    assert.deepEqual(await answer.json(), { rejected: [] });
    const { title, body, data: ids } = await notification(page);
    assert.deepEqual([title, body], ["Mission Control", "Grüße vom Mond 🌙"]);
    assert.deepEqual(ids, { room_id: "!room:example.org", event_id: "$event" });
  } finally {
    await gateway.stop();
  }
});

/** Opens the example and subscribes; the browser makes the subscription's keys. */
async function subscribe(applicationServerKey) {
  const page = await chromium.open(`${site.url}/`);
  const vapidKey = applicationServerKey.toString("base64url");
  const subscription = await page(`(async () => {
    const { subscribe } = await import("./pusher.js");
    const registration = await navigator.serviceWorker.getRegistration("/");
    await (await registration?.pushManager.getSubscription())?.unsubscribe();
    return (await subscribe("${vapidKey}")).toJSON();
  })()`);
  assert.equal(Buffer.from(subscription.keys.p256dh, "base64url").length, 65);
  return { page, subscription };
}

/** Waits for a notification, and closes it. */
function notification(page) {
  return until(() =>
    page(`(async () => {
      const [notification] = await (await navigator.serviceWorker.ready).getNotifications();
      notification?.close();
      const { title, body, tag, data } = notification ?? {};
      return notification && { title, body, tag, data };
    })()`),
  );
}

/** Serves the example at /, with this package in nocturne/; and the tests' files. */
async function serve() {
  const types = { ".html": "text/html", ".js": "text/javascript" };
  const server = createServer((request, response) => {
    const path = request.url.replace(/^\/nocturne\//, "/dist/").replace(/^\/(?=[^/]*$)/, "/example/");
    try {
      const file = path === "/example/" ? "<title>Example</title>" : readFileSync(new URL(`.${path}`, ROOT));
      response.writeHead(200, { "content-type": types[extname(path)] ?? "text/html" }).end(file);
    } catch {
      response.writeHead(404).end();
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { server, url: `http://127.0.0.1:${server.address().port}` };
}

/** The gateway with these apps, on a free port. */
async function startGateway(apps) {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address();
  probe.close();
  await once(probe, "close");
  const config = join(directory, "gateway.yaml");
  const options = {
    http: { port, bind_addresses: ["127.0.0.1"] },
    log: { level: "warn" },
    outbound: { allow_private: ["127.0.0.0/8"] },
    apps,
  };
  writeFileSync(config, JSON.stringify(options)); // JSON is YAML
  const environment = { SSL_CERT_FILE: service.certificate };
  const process = spawn(GATEWAY, ["push", "--config", config], { env: environment, stdio: "inherit" });
  const url = `http://127.0.0.1:${port}`;
  await until(() => fetch(`${url}/health`).then(({ ok }) => ok, () => false));
  const stop = async () => {
    process.kill();
    await once(process, "exit");
  };
  return { url, stop };
}
