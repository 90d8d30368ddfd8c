// Nocturne's opaque push, the receiving side (spec/opaque-push.md): for iOS 14, macOS 11 and newer, on CryptoKit and
// Foundation alone. It goes into the app, which makes keys and registers pushers, and into its notification service
// extension, which reads pushes.
//
// It has the same parts in the same order as the Kotlin one (clients/kotlin/src/NocturnePush.kt).

import CryptoKit
import Foundation

/// Why something could not be done: the only errors that are thrown, whatever others sent. They say nothing of what
/// was in a push or in a key.
public enum PushError: String, Error {
    /// A push, a blob or a tag is not of the form that the specification gives it.
    case form
    /// A blob was sealed for other keys, or changed on its way.
    case sealed
    /// A blob opened, and what was in it is not what the specification says.
    case content
    /// A blob opened, and is of a version that this code does not know.
    case version
    /// Stored keys are damaged, or the gateway has no key that can be used.
    case key
    /// A token has more than the `SealedPushkey.longestToken` bytes that can be sealed.
    case tokenTooLong
}

/// What a push is about. `n` is the same for every retry of one notification: whose `n` was seen before can be
/// dropped. It is absent in mode `wake`.
public enum Push {
    /// That there is something: sync.
    case wake(n: String?)
    /// Tags (§4): sync the room; nil where the tag is of none of the rooms, as before an invitation is synced.
    case tagged(n: String, roomID: String?, eventID: String?)
    /// A sealed blob (§5): all that the notification says.
    case sealed(n: String?, notification: SealedNotification)
    /// The client's own push test, the one push with identifiers in clear (§6).
    case test(eventID: String, roomID: String?)
}

/// What a sealed blob says (§5).
public struct SealedNotification {
    public let eventID: String?
    public let roomID: String?
    public let unread: Int?
    public let missedCalls: Int?
    /// Whether the homeserver said that it is not urgent.
    public let lowPriority: Bool
    /// When the gateway sealed it: seconds since 1970.
    public let timestamp: Int?
    /// The pusher's `default_payload` without the keys.
    public let data: [String: Any]?
    /// The event, where the gateway's operator chose `sealed_content`.
    public let type: String?
    public let sender: String?
    public let senderDisplayName: String?
    public let roomName: String?
    public let roomAlias: String?
    public let content: [String: Any]?
}

/// Reads pushes with the keys of one pusher: `blob`, `tags`, both or none. With both, the gateway seals a blob and
/// sends no tags.
public struct Receiver {
    /// The member of the pusher's `data`, or of its `default_payload`, that the gateway looks for (§2).
    public static let pusherDataName = "nocturne"
    /// The event that clients send to themselves to see whether pushes arrive (§6).
    public static let testEventID = "$THIS_IS_A_FAKE_EVENT_ID"

    private let blob: BlobKeys?
    private let tags: TagSecret?

    public init(blob: BlobKeys? = nil, tags: TagSecret? = nil) {
        self.blob = blob
        self.tags = tags
    }

    /// The `nocturne` object (§2): it goes under the name `pusherDataName` into the pusher's `data`, or into its
    /// `default_payload`. The homeserver and the gateway see it; Apple and Google do not.
    public func pusherData() -> [String: Any] {
        var data: [String: Any] = ["v": 1]
        if let tags = tags {
            data["secret"] = base64url(tags.secret)
        }
        if let blob = blob {
            data["p256dh"] = base64url(blob.publicKey)
            data["auth"] = base64url(blob.auth)
        }
        return data
    }

    /// Reads a push of APNs or FCM (§6) from its own members, `n`, `r`, `e`, `p`; others are passed over.
    /// In a notification service extension they are in `request.content.userInfo`.
    ///
    /// `rooms` are those that the account is joined to or invited to, `events` those that it may be about; both are
    /// only gone through for tags.
    public func read(_ push: [AnyHashable: Any], rooms: [String] = [], events: [String] = []) throws -> Push {
        let n = push["n"] as? String
        if push["event_id"] as? String == Receiver.testEventID {
            return .test(eventID: Receiver.testEventID, roomID: push["room_id"] as? String)
        }
        if let p = push["p"] as? String {
            switch try Receiver.about(openMembers(unbase64url(p))) {
            case .sealed(_, let notification): return .sealed(n: n, notification: notification)
            case .wake: return .wake(n: n)
            case let opened: return opened
            }
        }
        let r = push["r"] as? String
        let e = push["e"] as? String
        if let n = n, let tags = tags, r != nil || e != nil {
            return .tagged(
                n: n,
                roomID: try r.flatMap { try tags.room(n: n, r: $0, rooms: rooms) },
                eventID: try e.flatMap { try tags.event(n: n, e: $0, events: events) }
            )
        }
        return .wake(n: n)
    }

    /// Reads the body of a Web Push message, as it came over the network (§6).
    public func readMessage(_ body: Data) throws -> Push {
        try Receiver.about(openMembers([UInt8](body)))
    }

    /// The JSON in a sealed blob, of a version that is known.
    private func openMembers(_ message: [UInt8]) throws -> [String: Any] {
        guard let blob = blob else { throw PushError.key }
        let content = try blob.open(message)
        guard let text = String(data: Data(content), encoding: .utf8),
            let json = try? JSONSerialization.jsonObject(with: Data(text.utf8)),
            let members = json as? [String: Any]
        else { throw PushError.content }
        let isTest = members["event_id"] as? String == Receiver.testEventID
        guard isTest || (members["v"] as? NSNumber)?.doubleValue == 1 else { throw PushError.version }
        return members
    }

    private static func about(_ members: [String: Any]) -> Push {
        func text(_ name: String) -> String? { members[name] as? String }
        func number(_ name: String) -> Int? { (members[name] as? NSNumber)?.intValue }
        if text("event_id") == testEventID {
            return .test(eventID: testEventID, roomID: text("room_id"))
        }
        let notification = SealedNotification(
            eventID: text("event_id"),
            roomID: text("room_id"),
            unread: number("unread"),
            missedCalls: number("missed_calls"),
            lowPriority: text("prio") == "low",
            timestamp: number("ts"),
            data: members["data"] as? [String: Any],
            type: text("type"),
            sender: text("sender"),
            senderDisplayName: text("sender_display_name"),
            roomName: text("room_name"),
            roomAlias: text("room_alias"),
            content: members["content"] as? [String: Any]
        )
        let saysNothing = notification.eventID == nil && notification.roomID == nil
            && notification.unread == nil && notification.missedCalls == nil
        return saysNothing ? .wake(n: nil) : .sealed(n: nil, notification: notification)
    }
}

/// Keys for sealed blobs (§5): one set for each pusher.
public struct BlobKeys {
    private static let point = 65
    private static let header = 16 + 4 + 1 + point
    private static let tag = 16
    private static let longestMessage = 4096
    private static let lastRecord: UInt8 = 2

    private let privateKey: P256.KeyAgreement.PrivateKey
    let publicKey: [UInt8]
    let auth: [UInt8]

    private init(privateKey: P256.KeyAgreement.PrivateKey, auth: [UInt8]) {
        self.privateKey = privateKey
        self.publicKey = [UInt8](privateKey.publicKey.x963Representation)
        self.auth = auth
    }

    /// New keys.
    public static func generate() -> BlobKeys {
        BlobKeys(privateKey: P256.KeyAgreement.PrivateKey(), auth: randomBytes(16))
    }

    /// The keys that `store` gave out.
    public init(restoring stored: Data) throws {
        let bytes = [UInt8](stored)
        guard bytes.count == 32 + 16,
            let privateKey = try? P256.KeyAgreement.PrivateKey(rawRepresentation: Array(bytes[..<32]))
        else { throw PushError.key }
        self.init(privateKey: privateKey, auth: Array(bytes[32...]))
    }

    /// What to keep where only the app and its extensions can read it: 48 bytes, the private key among them.
    public func store() -> Data {
        privateKey.rawRepresentation + Data(auth)
    }

    /// Opens a message of RFC 8291 (`aes128gcm`, one record): its content without padding.
    public func open(_ message: Data) throws -> Data {
        try Data(open([UInt8](message)))
    }

    func open(_ message: [UInt8]) throws -> [UInt8] {
        // RFC 8188 §2.1: salt, record size, length of the key ID, key ID: here the sender's public key
        guard message.count >= BlobKeys.header + 1 + BlobKeys.tag, message.count <= BlobKeys.longestMessage else {
            throw PushError.form
        }
        let salt = Array(message[..<16])
        let recordSize = message[16..<20].reduce(0) { $0 << 8 | Int($1) }
        guard Int(message[20]) == BlobKeys.point else { throw PushError.form }
        let sender = Array(message[21..<BlobKeys.header])
        let ciphertext = Array(message[BlobKeys.header...])
        guard ciphertext.count <= recordSize else { throw PushError.form }

        // RFC 8291 §3.4; a point that is not on the curve is no public key to CryptoKit
        guard sender[0] == 4,
            let senderKey = try? P256.KeyAgreement.PublicKey(x963Representation: sender),
            let agreed = try? privateKey.sharedSecretFromKeyAgreement(with: senderKey)
        else { throw PushError.sealed }
        let shared = agreed.withUnsafeBytes { [UInt8]($0) }
        let input = hkdf(salt: auth, input: shared, info: ascii("WebPush: info\0") + publicKey + sender, length: 32)
        let key = hkdf(salt: salt, input: input, info: ascii("Content-Encoding: aes128gcm\0"), length: 16)
        let nonce = hkdf(salt: salt, input: input, info: ascii("Content-Encoding: nonce\0"), length: 12)
        guard let record = AESGCM.open(key: key, nonce: nonce, ciphertext: ciphertext) else {
            throw PushError.sealed
        }

        // RFC 8188 §2: content, the delimiter of the last record, zeros
        guard let end = record.lastIndex(where: { $0 != 0 }), record[end] == BlobKeys.lastRecord else {
            throw PushError.content
        }
        return Array(record[..<end])
    }
}

/// The secret for tags (§4): one for each pusher.
public struct TagSecret {
    let secret: [UInt8]

    private init(secret: [UInt8]) {
        self.secret = secret
    }

    /// A new secret.
    public static func generate() -> TagSecret {
        TagSecret(secret: randomBytes(32))
    }

    /// The secret that `store` gave out.
    public init(restoring stored: Data) throws {
        guard stored.count == 32 else { throw PushError.key }
        self.init(secret: [UInt8](stored))
    }

    /// What to keep where only the app and its extensions can read it: 32 bytes.
    public func store() -> Data {
        Data(secret)
    }

    /// The one of `rooms` that a push with `n` and `r` is about.
    public func room(n: String, r: String, rooms: [String]) throws -> String? {
        try find(label: "nocturne room\0", n: n, tag: r, ids: rooms)
    }

    /// The one of `events` that a push with `n` and `e` is about.
    public func event(n: String, e: String, events: [String]) throws -> String? {
        try find(label: "nocturne event\0", n: n, tag: e, ids: events)
    }

    private func find(label: String, n: String, tag: String, ids: [String]) throws -> String? {
        let prefix = try ascii(label) + unbase64url(n, size: 16)
        let wanted = try unbase64url(tag, size: 16)
        return ids.first { Array(hmac(key: secret, message: prefix + [UInt8]($0.utf8))[..<16]) == wanted }
    }
}

/// One of the `keys` that the gateway lists at `GET /_nocturne/v1/keys` (§7).
public struct GatewayKey {
    public let id: Int
    public let alg: String
    public let key: String
    public let notAfter: Int?

    public init(id: Int, alg: String, key: String, notAfter: Int?) {
        self.id = id
        self.alg = alg
        self.key = key
        self.notAfter = notAfter
    }

    /// The keys in the gateway's answer, in its order; entries that are no such keys are passed over.
    public static func list(from answer: Data) throws -> [GatewayKey] {
        guard let members = try? JSONSerialization.jsonObject(with: answer) as? [String: Any],
            let entries = members["keys"] as? [[String: Any]]
        else { throw PushError.key }
        return entries.compactMap { entry in
            guard let id = (entry["id"] as? NSNumber)?.intValue,
                let alg = entry["alg"] as? String,
                let key = entry["key"] as? String
            else { return nil }
            return GatewayKey(id: id, alg: alg, key: key, notAfter: (entry["not_after"] as? NSNumber)?.intValue)
        }
    }

    var bytes: [UInt8]? {
        try? unbase64url(key, size: 32)
    }

    func isUsable(now: Int) -> Bool {
        guard alg == "x25519", let bytes = bytes else { return false }
        return id == Int([UInt8](SHA256.hash(data: bytes))[0]) && (notAfter.map { now < $0 } ?? true)
    }
}

/// Sealed pushkeys (§7): the homeserver and its database never hold the device token.
public enum SealedPushkey {
    /// The longest token that can be sealed, in bytes of UTF-8.
    public static let longestToken = 254

    private static let padded = 256
    private static let prefix = "nk1."
    private static let info = ascii("nocturne pushkey v1")

    /// What to register as the pushkey in place of `token`, for the pusher with this `appID`.
    ///
    /// `token` is what the pushkey would be unsealed: the device token in base64 or hex, as the gateway's operator
    /// says. The result is another one every time. Keep it: the pusher is removed, and replaced, by exactly this
    /// string. `keys` are in the gateway's order.
    public static func seal(token: String, appID: String, keys: [GatewayKey], now: Date = Date()) throws -> String {
        try seal(
            token: token,
            appID: appID,
            keys: keys,
            now: Int(now.timeIntervalSince1970),
            ephemeral: Curve25519.KeyAgreement.PrivateKey()
        )
    }

    static func seal(
        token: String,
        appID: String,
        keys: [GatewayKey],
        now: Int,
        ephemeral: Curve25519.KeyAgreement.PrivateKey
    ) throws -> String {
        let text = [UInt8](token.utf8)
        guard text.count <= longestToken else { throw PushError.tokenTooLong }
        guard let newest = keys.first(where: { $0.isUsable(now: now) }), let receiver = newest.bytes else {
            throw PushError.key
        }
        let zeros = [UInt8](repeating: 0, count: padded - 2 - text.count)
        let sealed = try BaseHPKE.seal(
            receiver: receiver,
            info: info,
            aad: [UInt8](appID.utf8),
            plaintext: len16(text.count) + text + zeros,
            ephemeral: ephemeral
        )
        return prefix + base64url([UInt8(newest.id)] + sealed)
    }
}

/// HPKE (RFC 9180), base mode, one message: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM. CryptoKit's own
/// needs iOS 17.
enum BaseHPKE {
    private static let kemSuite = ascii("KEM") + len16(0x20)
    private static let suite = ascii("HPKE") + len16(0x20) + len16(1) + len16(1)
    private static let label = ascii("HPKE-v1")

    /// §6.1 `SealBase`: `enc` and the ciphertext. `ephemeral` is used this once.
    static func seal(
        receiver: [UInt8],
        info: [UInt8],
        aad: [UInt8],
        plaintext: [UInt8],
        ephemeral: Curve25519.KeyAgreement.PrivateKey
    ) throws -> [UInt8] {
        // §4.1 Encap; §7.1.4: never with the shared secret of zeros which a useless public key leads to
        guard let receiverKey = try? Curve25519.KeyAgreement.PublicKey(rawRepresentation: receiver),
            let agreed = try? ephemeral.sharedSecretFromKeyAgreement(with: receiverKey)
        else { throw PushError.key }
        let shared = agreed.withUnsafeBytes { [UInt8]($0) }
        guard shared.contains(where: { $0 != 0 }) else { throw PushError.key }
        let enc = [UInt8](ephemeral.publicKey.rawRepresentation)
        let prk = extract(salt: [], suite: kemSuite, name: "eae_prk", input: shared)
        let secret = expand(key: prk, suite: kemSuite, name: "shared_secret", info: enc + receiver, length: 32)

        // §5.1 KeySchedule, mode_base
        let pskIDHash = extract(salt: [], suite: suite, name: "psk_id_hash", input: [])
        let infoHash = extract(salt: [], suite: suite, name: "info_hash", input: info)
        let context = [0] + pskIDHash + infoHash
        let schedule = extract(salt: secret, suite: suite, name: "secret", input: [])
        let key = expand(key: schedule, suite: suite, name: "key", info: context, length: 16)
        let nonce = expand(key: schedule, suite: suite, name: "base_nonce", info: context, length: 12)

        return try enc + AESGCM.seal(key: key, nonce: nonce, aad: aad, plaintext: plaintext)
    }

    /// §4 `LabeledExtract`.
    private static func extract(salt: [UInt8], suite: [UInt8], name: String, input: [UInt8]) -> [UInt8] {
        hkdfExtract(salt: salt, input: label + suite + ascii(name) + input)
    }

    /// §4 `LabeledExpand`.
    private static func expand(key: [UInt8], suite: [UInt8], name: String, info: [UInt8], length: Int) -> [UInt8] {
        hkdfExpand(key: key, info: len16(length) + label + suite + ascii(name) + info, length: length)
    }
}

/// AES-128-GCM with a tag of 16 bytes at the end.
private enum AESGCM {
    static func seal(key: [UInt8], nonce: [UInt8], aad: [UInt8], plaintext: [UInt8]) throws -> [UInt8] {
        let box = try AES.GCM.seal(
            plaintext,
            using: SymmetricKey(data: key),
            nonce: AES.GCM.Nonce(data: nonce),
            authenticating: aad
        )
        return [UInt8](box.ciphertext) + [UInt8](box.tag)
    }

    /// Nil where the tag does not fit.
    static func open(key: [UInt8], nonce: [UInt8], ciphertext: [UInt8]) -> [UInt8]? {
        guard ciphertext.count >= 16,
            let nonce = try? AES.GCM.Nonce(data: nonce),
            let box = try? AES.GCM.SealedBox(
                nonce: nonce,
                ciphertext: Array(ciphertext.dropLast(16)),
                tag: Array(ciphertext.suffix(16))
            ),
            let opened = try? AES.GCM.open(box, using: SymmetricKey(data: key))
        else { return nil }
        return [UInt8](opened)
    }
}

/// RFC 5869 with SHA-256, to at most one block.
private func hkdf(salt: [UInt8], input: [UInt8], info: [UInt8], length: Int) -> [UInt8] {
    hkdfExpand(key: hkdfExtract(salt: salt, input: input), info: info, length: length)
}

private func hkdfExtract(salt: [UInt8], input: [UInt8]) -> [UInt8] {
    hmac(key: salt, message: input)
}

private func hkdfExpand(key: [UInt8], info: [UInt8], length: Int) -> [UInt8] {
    Array(hmac(key: key, message: info + [1])[..<length])
}

/// An empty key stands for zeros (RFC 5869 §2.2).
private func hmac(key: [UInt8], message: [UInt8]) -> [UInt8] {
    let key = key.isEmpty ? [UInt8](repeating: 0, count: 32) : key
    return [UInt8](HMAC<SHA256>.authenticationCode(for: message, using: SymmetricKey(data: key)))
}

private func ascii(_ text: String) -> [UInt8] {
    [UInt8](text.utf8)
}

private func len16(_ number: Int) -> [UInt8] {
    [UInt8(number >> 8 & 255), UInt8(number & 255)]
}

private func randomBytes(_ size: Int) -> [UInt8] {
    var generator = SystemRandomNumberGenerator() // the system's, fit for keys
    return (0..<size).map { _ in UInt8.random(in: .min ... .max, using: &generator) }
}

private func base64url(_ bytes: [UInt8]) -> String {
    Data(bytes).base64EncodedString()
        .replacingOccurrences(of: "+", with: "-")
        .replacingOccurrences(of: "/", with: "_")
        .replacingOccurrences(of: "=", with: "")
}

/// With or without padding (§2).
private func unbase64url(_ text: String, size: Int? = nil) throws -> [UInt8] {
    guard !text.contains("+"), !text.contains("/") else { throw PushError.form }
    var base64 = text.replacingOccurrences(of: "-", with: "+").replacingOccurrences(of: "_", with: "/")
    while base64.hasSuffix("=") {
        base64.removeLast()
    }
    base64 += String(repeating: "=", count: (4 - base64.utf8.count % 4) % 4)
    guard let bytes = Data(base64Encoded: base64), size == nil || bytes.count == size else { throw PushError.form }
    return [UInt8](bytes)
}
