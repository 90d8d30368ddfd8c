import { execFileSync } from "node:child_process";
import { createHash, randomBytes, X509Certificate } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createTlsHttpServer } from "node:https";
import { join } from "node:path";
import { createServer as createTlsServer } from "node:tls";

/**
 * As much of Google's push service, on loopback, as Chromium needs to subscribe and to be pushed to: check-in and
 * registration over HTTP, the connection that pushes arrive over (MCS: protocol buffers over TLS), and the endpoint
 * that a gateway posts to (RFC 8030). Keys of subscriptions and decryption are the browser's own.
 */
export class PushService {
  /** The certificate's file, self-signed, for 127.0.0.1. */
  certificate;
  /** What Chromium is started with so that it comes here. */
  flags;
  #origin;
  #servers = [];
  #sockets = new Set();
  #registrations = new Map();
  #connection;
  #unacknowledged = [];

  static async start(directory) {
    const service = new PushService();
    service.certificate = join(directory, "certificate.pem");
    const keyFile = join(directory, "key.pem");
    makeCertificate(service.certificate, keyFile);
    const cert = readFileSync(service.certificate);
    const tls = { cert, key: readFileSync(keyFile) };

    const http = await service.#listen(createServer((...args) => service.#answer(...args)));
    const mcs = await service.#listen(createTlsServer(tls, (socket) => service.#connect(socket)));
    const push = createTlsHttpServer(tls, (...args) => service.#push(...args));
    service.#origin = `https://127.0.0.1:${await service.#listen(push)}`;

    const spki = new X509Certificate(cert).publicKey.export({ type: "spki", format: "der" });
    service.flags = [
      `--gcm-checkin-url=http://127.0.0.1:${http}/checkin`,
      `--gcm-registration-url=http://127.0.0.1:${http}/register`,
      `--gcm-mcs-endpoint=https://127.0.0.1:${mcs}`,
      `--ignore-certificate-errors-spki-list=${createHash("sha256").update(spki).digest("base64")}`,
    ];
    return service;
  }

  /** Where to post pushes for a subscription: at its real endpoint is Google. */
  endpoint(subscription) {
    return `${this.#origin}/push/${token(subscription.endpoint)}`;
  }

  /** Sends an encrypted message to a subscription. */
  deliver(subscription, message) {
    this.#deliver(token(subscription.endpoint), message);
  }

  close() {
    this.#servers.forEach((server) => server.close());
    this.#sockets.forEach((socket) => socket.destroy());
  }

  async #listen(server) {
    server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.on("error", () => {}).on("close", () => this.#sockets.delete(socket));
    });
    this.#servers.push(server.listen(0, "127.0.0.1"));
    await once(server, "listening");
    return server.address().port;
  }

  /** Check-in and registration. */
  async #answer(request, response) {
    const body = await read(request);
    if (request.url === "/checkin") {
      // AndroidCheckinResponse: stats_ok, android_id, security_token
      response.end(Buffer.concat([varintField(1, 1), fixed64Field(7, 1n), fixed64Field(8, 2n)]));
      return;
    }
    const form = new URLSearchParams(body.toString());
    const token = randomBytes(16).toString("hex");
    const [app, sender, subtype] = ["app", "sender", "X-subtype"].map((name) => form.get(name));
    this.#registrations.set(token, { app, sender, subtype });
    response.end(`token=${token}`);
  }

  /** RFC 8030 §5. What RFC 8292 asks of the sender is not looked at. */
  async #push(request, response) {
    const body = await read(request);
    const token = request.url.replace(/^\/push\//, "");
    const isKnown = this.#registrations.has(token);
    if (isKnown) {
      this.#deliver(token, body);
    }
    response.writeHead(isKnown ? 201 : 404).end();
  }

  /** A connection of Chromium's: a version byte, then frames of a tag, a length and a protocol buffer. */
  #connect(socket) {
    let received = Buffer.alloc(0);
    let isFirst = true;
    socket.on("error", () => {});
    socket.on("data", (chunk) => {
      received = Buffer.concat([received, chunk]);
      if (isFirst && received.length > 0) {
        received = received.subarray(1);
        isFirst = false;
      }
      for (let frame = takeFrame(received); frame; frame = takeFrame(received)) {
        received = frame.rest;
        if (frame.tag === LOGIN_REQUEST) {
          const login = bytesField(1, "login");
          socket.write(Buffer.concat([Buffer.of(MCS_VERSION), encodeFrame(LOGIN_RESPONSE, login)]));
          this.#connection = socket;
          this.#unacknowledged.forEach((stanza) => socket.write(stanza));
        } else if (frame.tag === IQ_STANZA) {
          this.#unacknowledged = [];
        }
      }
    });
  }

  #deliver(token, message) {
    const { app, sender, subtype } = this.#registrations.get(token);
    const appData = (key, value) =>
      bytesField(7, Buffer.concat([bytesField(1, key), bytesField(2, value)]));
    const id = randomBytes(8).toString("hex");
    const stanza = encodeFrame(
      DATA_MESSAGE_STANZA,
      Buffer.concat([
        bytesField(2, id),
        bytesField(3, sender), // from
        bytesField(5, app), // category
        appData("subtype", subtype),
        appData("content-encoding", "aes128gcm"),
        bytesField(9, id), // persistent_id
        bytesField(21, message), // raw_data
        varintField(24, 1), // immediate_ack
      ]),
    );
    this.#unacknowledged.push(stanza);
    this.#connection?.write(stanza);
  }
}

const MCS_VERSION = 41;
const LOGIN_REQUEST = 2;
const LOGIN_RESPONSE = 3;
const IQ_STANZA = 7;
const DATA_MESSAGE_STANZA = 8;

/** Chromium's own endpoints end with the registration's token. */
function token(endpoint) {
  return endpoint.slice(endpoint.lastIndexOf("/") + 1);
}

async function read(stream) {
  return Buffer.concat(await stream.toArray());
}

function makeCertificate(certificate, key) {
  const options = "req -x509 -nodes -days 2 -subj /CN=push -newkey ec -pkeyopt ec_paramgen_curve:prime256v1";
  const extensions = ["subjectAltName=IP:127.0.0.1", "basicConstraints=critical,CA:FALSE"];
  execFileSync(
    "openssl",
    [
      ...options.split(" "),
      ...extensions.flatMap((extension) => ["-addext", extension]),
      ...["-out", certificate, "-keyout", key],
    ],
    { stdio: "ignore" },
  );
}

function varint(number) {
  const bytes = [];
  for (; number > 127; number >>>= 7) {
    bytes.push((number & 127) | 128);
  }
  return Buffer.from([...bytes, number]);
}

function varintField(number, value) {
  return Buffer.concat([varint(number << 3), varint(value)]);
}

function fixed64Field(number, value) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return Buffer.concat([varint((number << 3) | 1), bytes]);
}

function bytesField(number, value) {
  const bytes = Buffer.from(value);
  return Buffer.concat([varint((number << 3) | 2), varint(bytes.length), bytes]);
}

function encodeFrame(tag, payload) {
  return Buffer.concat([Buffer.of(tag), varint(payload.length), payload]);
}

/** The first frame, if all of it is there. */
function takeFrame(bytes) {
  let length = 0;
  for (let at = 1; at < Math.min(bytes.length, 6); at += 1) {
    length |= (bytes[at] & 127) << (7 * (at - 1));
    if (bytes[at] < 128) {
      const end = at + 1 + length;
      return bytes.length < end ? undefined : { tag: bytes[0], rest: bytes.subarray(end) };
    }
  }
  return undefined;
}
