/**
 * The receiving side of Nocturne's opaque push (spec/opaque-push.md): a push says nothing to Apple, Google and
 * push services, and all to the device that registered keys for it.
 *
 * Needs WebCrypto and nothing else: service workers, browsers, Node from version 20 on.
 */
export { openBlob, openMessage, type SealedNotification } from "./blob.js";
export { NocturneError, type Problem } from "./errors.js";
export {
  generateKeys,
  pusherData,
  type BlobKeys,
  type DeviceKeys,
  type NocturneObject,
} from "./keys.js";
export { understand, understandMessage, type About } from "./push.js";
export { sealPushkey, type GatewayKeys } from "./pushkey.js";
export { eventTag, matchEvent, matchRoom, roomTag } from "./tags.js";
