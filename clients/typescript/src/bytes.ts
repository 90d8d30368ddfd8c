import { NocturneError, type Problem } from "./errors.js";

/** Bytes of their own, not of shared memory: what WebCrypto takes. */
export type Bytes = Uint8Array<ArrayBuffer>;

/** The UTF-8 bytes of a text. */
export function utf8(text: string): Bytes {
  return new TextEncoder().encode(text);
}

/** All bytes in a row. */
export function concat(...parts: readonly Uint8Array[]): Bytes {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** A big-endian 16-bit number. */
export function uint16(number: number): Bytes {
  return Uint8Array.of(number >> 8, number & 0xff);
}

/** base64url without padding. */
export function toBase64url(bytes: Uint8Array): string {
  let binary = "";
  for (const byte of bytes) {
    binary += String.fromCharCode(byte);
  }
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** Reads base64url, with or without padding; what is none is a `problem` of `name`. */
export function fromBase64url(text: string, name: string, problem: Problem): Bytes {
  const unpadded = text.replace(/={1,2}$/, "");
  if (!/^[\w-]*$/.test(unpadded) || unpadded.length % 4 === 1) {
    throw new NocturneError(problem, `${name} is not base64url`);
  }
  const binary = atob(unpadded.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(binary, (character) => character.charCodeAt(0));
}

/** As {@link fromBase64url}, of a known length. */
export function keyFromBase64url(text: string, length: number, name: string): Bytes {
  const bytes = fromBase64url(text, name, "keys");
  if (bytes.length !== length) {
    throw new NocturneError("keys", `${name} does not have ${length} bytes`);
  }
  return bytes;
}
