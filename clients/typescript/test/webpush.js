import { createCipheriv, createECDH, hkdfSync, randomBytes } from "node:crypto";

/**
 * Encrypts a Web Push message (RFC 8291), with Node's own cryptography: what a gateway does, written down once more
 * for messages to keys that are new in every test.
 */
export function encrypt(text, { p256dh, auth }, paddedTo = 512) {
  const receiver = Buffer.from(p256dh, "base64url");
  const own = createECDH("prime256v1");
  const sender = own.generateKeys();
  const salt = randomBytes(16);
  const shared = own.computeSecret(receiver);
  const info = Buffer.concat([Buffer.from("WebPush: info\0"), receiver, sender]);
  const input = derive(shared, Buffer.from(auth, "base64url"), info, 32);
  const key = derive(input, salt, Buffer.from("Content-Encoding: aes128gcm\0"), 16);
  const nonce = derive(input, salt, Buffer.from("Content-Encoding: nonce\0"), 12);

  const record = Buffer.alloc(paddedTo);
  record[record.write(text)] = 2;
  const cipher = createCipheriv("aes-128-gcm", key, nonce);
  const sealed = [cipher.update(record), cipher.final(), cipher.getAuthTag()];
  const recordSizeAndKeyLength = Buffer.from([0, 0, 16, 0, sender.length]);
  return Buffer.concat([salt, recordSizeAndKeyLength, sender, ...sealed]);
}

function derive(secret, salt, info, length) {
  return Buffer.from(hkdfSync("sha256", secret, salt, info, length));
}
