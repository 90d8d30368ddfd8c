import { concat, uint16, utf8, type Bytes } from "./bytes.js";
import { NocturneError } from "./errors.js";

/** The sender's key pair for one message. */
export interface Ephemeral {
  privateKey: CryptoKey;
  /** The public key's 32 bytes. */
  publicKey: Bytes;
}

/** A new key pair. */
export async function generateEphemeral(): Promise<Ephemeral> {
  let pair: CryptoKeyPair;
  try {
    pair = (await crypto.subtle.generateKey(X25519, true, ["deriveBits"])) as CryptoKeyPair;
  } catch {
    throw new NocturneError("unsupported", "this WebCrypto lacks X25519");
  }
  const publicKey = await crypto.subtle.exportKey("raw", pair.publicKey);
  return { privateKey: pair.privateKey, publicKey: new Uint8Array(publicKey) };
}

/**
 * HPKE (RFC 9180) in base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-128-GCM: the first and only
 * message of a context.
 */
export async function seal(
  ephemeral: Ephemeral,
  receiver: Bytes,
  info: Bytes,
  aad: Bytes,
  plaintext: Bytes,
): Promise<{ enc: Bytes; ciphertext: Bytes }> {
  const enc = ephemeral.publicKey;
  const sharedSecret = await encapsulate(ephemeral, receiver);

  // RFC 9180 §5.1: KeySchedule
  const context = concat(
    Uint8Array.of(0),
    await extract(EMPTY, SUITE, "psk_id_hash", EMPTY),
    await extract(EMPTY, SUITE, "info_hash", info),
  );
  const secret = await extract(sharedSecret, SUITE, "secret", EMPTY);
  const key = await expand(secret, SUITE, "key", context, 16);
  const iv = await expand(secret, SUITE, "base_nonce", context, 12);

  const aes = await crypto.subtle.importKey("raw", key, "AES-GCM", false, ["encrypt"]);
  const algorithm = { name: "AES-GCM", iv, additionalData: aad };
  const ciphertext = await crypto.subtle.encrypt(algorithm, aes, plaintext);
  return { enc, ciphertext: new Uint8Array(ciphertext) };
}

const X25519 = { name: "X25519" };
const EMPTY = new Uint8Array(0);
/** RFC 9180 §4.1 and §5.1: the numbers of the KEM, and of KEM, KDF and AEAD. */
const KEM = concat(utf8("KEM"), uint16(0x0020));
const SUITE = concat(utf8("HPKE"), uint16(0x0020), uint16(0x0001), uint16(0x0001));

/** RFC 9180 §4.1: Encap. */
async function encapsulate(ephemeral: Ephemeral, receiver: Bytes): Promise<Bytes> {
  let shared: Bytes;
  try {
    const theirs = await crypto.subtle.importKey("raw", receiver, X25519, false, []);
    const algorithm = { name: "X25519", public: theirs };
    const bits = await crypto.subtle.deriveBits(algorithm, ephemeral.privateKey, 256);
    shared = new Uint8Array(bits);
  } catch {
    throw new NocturneError("keys", "the gateway's key is no X25519 key");
  }
  // RFC 9180 §7.1.4; WebCrypto should have refused it
  if (shared.every((byte) => byte === 0)) {
    throw new NocturneError("keys", "the gateway's key is no X25519 key");
  }
  const secret = await extract(EMPTY, KEM, "eae_prk", shared);
  return expand(secret, KEM, "shared_secret", concat(ephemeral.publicKey, receiver), 32);
}

/** RFC 9180 §4: LabeledExtract. */
function extract(salt: Bytes, suite: Bytes, label: string, secret: Bytes): Promise<Bytes> {
  return hmac(salt, concat(VERSION, suite, utf8(label), secret));
}

/** RFC 9180 §4: LabeledExpand to at most one block, which is one HMAC (RFC 5869 §2.3). */
async function expand(
  secret: Bytes,
  suite: Bytes,
  label: string,
  info: Bytes,
  length: number,
): Promise<Bytes> {
  const labeled = concat(uint16(length), VERSION, suite, utf8(label), info, Uint8Array.of(1));
  return (await hmac(secret, labeled)).slice(0, length);
}

const VERSION = utf8("HPKE-v1");

async function hmac(key: Bytes, message: Bytes): Promise<Bytes> {
  // HMAC fills a key up with zeros; WebCrypto takes none without any
  const raw = key.length === 0 ? new Uint8Array(32) : key;
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const imported = await crypto.subtle.importKey("raw", raw, algorithm, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", imported, message));
}
