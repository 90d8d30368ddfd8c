// The CI that runs on every change has no Swift compiler, and so neither compiles nor runs this file; the job `swift`
// of .github/workflows/ci.yml does, on macOS.

import CryptoKit
import Foundation
import XCTest

@testable import NocturnePush

final class StandardTests: XCTestCase {
    func testExampleOfRFC8291AppendixA() throws {
        XCTAssertEqual(try rfc8291.open(example), [UInt8]("When I grow up, I want to be a watermelon".utf8))
    }

    func testExampleOfRFC9180AppendixA11() throws {
        let ephemeral = hex("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736")
        let sealed = try BaseHPKE.seal(
            receiver: hex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d"),
            info: [UInt8]("Ode on a Grecian Urn".utf8),
            aad: [UInt8]("Count-0".utf8),
            plaintext: [UInt8]("Beauty is truth, truth beauty".utf8),
            ephemeral: Curve25519.KeyAgreement.PrivateKey(rawRepresentation: ephemeral)
        )
        let enc = "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"
        let ciphertext =
            "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"
        XCTAssertEqual(sealed, hex(enc + ciphertext))
    }
}

final class KeyTests: XCTestCase {
    func testPusherDataIsWhatTheSpecificationSays() {
        let data = Receiver(blob: .generate()).pusherData()
        XCTAssertEqual(Set(data.keys), ["v", "p256dh", "auth"])
        XCTAssertEqual((data["p256dh"] as? String)?.count, 87)
        XCTAssertEqual((data["auth"] as? String)?.count, 22)
    }

    func testKeysSurviveBeingStored() throws {
        let keys = BlobKeys.generate()
        let restored = try BlobKeys(restoring: keys.store())
        XCTAssertEqual(restored.publicKey, keys.publicKey)
        XCTAssertEqual(restored.store(), keys.store())
        XCTAssertNotEqual(BlobKeys.generate().store(), keys.store())
        let secret = TagSecret.generate()
        XCTAssertEqual(try TagSecret(restoring: secret.store()).secret, secret.secret)
    }

    func testASealedPushkeyIsAnotherOneEveryTime() throws {
        let publicKey = [UInt8](Curve25519.KeyAgreement.PrivateKey().publicKey.rawRepresentation)
        let key = GatewayKey(
            id: Int([UInt8](SHA256.hash(data: publicKey))[0]), alg: "x25519", key: base64(publicKey), notAfter: nil)
        let sealed = try (0..<4).map { _ in try SealedPushkey.seal(token: "token", appID: "app", keys: [key]) }
        XCTAssertEqual(Set(sealed).count, 4)
        XCTAssertEqual(Set(sealed.map { $0.count }), [411])
        expect(.tokenTooLong) {
            _ = try SealedPushkey.seal(token: String(repeating: "é", count: 128), appID: "app", keys: [key])
        }
    }

    func testTagsWithoutTheSecretSayThatThereIsSomething() throws {
        let tag = String(repeating: "A", count: 22)
        guard case .wake(let n) = try Receiver(blob: .generate()).read(["n": tag, "r": tag]) else {
            return XCTFail("no wake")
        }
        XCTAssertEqual(n, tag)
        expect(.key) { _ = try Receiver().read(["n": tag, "p": "AAAA"]) }
    }
}

final class MalformedTests: XCTestCase {
    func testAMessageThatIsCutOrChangedAnywhereDoesNotOpen() {
        for length in example.indices {
            expectError { _ = try rfc8291.open(Array(example[..<length])) }
        }
        // the record size is no part of what is authenticated (RFC 8188 §2.1)
        for place in example.indices where !(16..<20).contains(place) {
            var changed = example
            changed[place] ^= 1
            expectError { _ = try rfc8291.open(changed) }
        }
    }

    func testGarbageIsRefused() {
        let receiver = Receiver(blob: rfc8291, tags: .generate())
        for _ in 0..<2_000 {
            var garbage = (0..<Int.random(in: 0..<300)).map { _ in UInt8.random(in: .min ... .max) }
            if garbage.count > 21, Bool.random() { garbage[20] = 65 }
            expectError { _ = try rfc8291.open(garbage) }
            expectError { _ = try receiver.readMessage(Data(garbage)) }
            expectError { _ = try receiver.read(["p": base64(garbage)]) }
            expect(.key) { _ = try BlobKeys(restoring: Data(garbage.prefix(47))) }
        }
        let good = String(repeating: "A", count: 22)
        for bad in ["", "=", "A", "!", "é", "AAAA", good + "A", String(good.dropLast())] {
            expect(.form) { _ = try receiver.read(["n": bad, "r": good]) }
            expect(.form) { _ = try receiver.read(["n": good, "r": bad]) }
            expect(.form) { _ = try receiver.read(["n": good, "e": bad]) }
        }
        expect(.key) { _ = try TagSecret(restoring: Data(count: 31)) }
    }
}

/// Everything in clients/test-vectors.json that a device does.
final class VectorTests: XCTestCase {
    private typealias Vector = [String: Any]

    private func vectors(_ name: String) throws -> [Vector] {
        try XCTUnwrap(file()[name] as? [Vector])
    }

    private func file() throws -> Vector {
        let clients = URL(fileURLWithPath: #filePath)
            .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let text = try Data(contentsOf: clients.appendingPathComponent("test-vectors.json"))
        return try XCTUnwrap(JSONSerialization.jsonObject(with: text) as? Vector)
    }

    func testPusherData() throws {
        for vector in try vectors("pusher_data") {
            XCTAssertEqual(try receiver(vector).pusherData() as NSDictionary, vector["nocturne"] as? NSDictionary)
        }
    }

    func testTags() throws {
        for vector in try vectors("tags") {
            let secret = try TagSecret(restoring: Data(bytes(vector, "secret")))
            let (n, r, e) = (text(vector, "n"), text(vector, "r"), text(vector, "e"))
            let (room, event) = (text(vector, "room_id"), text(vector, "event_id"))
            XCTAssertEqual(try secret.room(n: n, r: r, rooms: ["!no", event, room]), room)
            XCTAssertEqual(try secret.event(n: n, e: e, events: ["$no", room, event]), event)
            XCTAssertNil(try secret.room(n: n, r: r, rooms: ["!no", event]))
            XCTAssertNil(try secret.event(n: n, e: r, events: [event, room]))
        }
    }

    func testBlobs() throws {
        for vector in try vectors("blobs") {
            let push = try receiver(vector).read(["p": text(vector, "p")])
            XCTAssertEqual(members(push), vector["json"] as? NSDictionary, comment(vector))
        }
    }

    func testBrokenBlobs() throws {
        for vector in try vectors("broken_blobs") {
            let problem = try XCTUnwrap(PushError(rawValue: text(vector, "problem")))
            let reader = try receiver(vector)
            expect(problem, comment(vector)) { _ = try reader.read(["p": text(vector, "p")]) }
        }
    }

    func testSealedPushkeys() throws {
        let pushkeys = try XCTUnwrap(file()["pushkeys"] as? Vector)
        let listed = try gatewayKeys(pushkeys["gateway_keys"])
        for vector in try XCTUnwrap(pushkeys["sealed"] as? [Vector]) {
            let ephemeral = try Curve25519.KeyAgreement.PrivateKey(
                rawRepresentation: bytes(vector, "ephemeral_private_key"))
            let sealed = try SealedPushkey.seal(
                token: text(vector, "token"),
                appID: text(vector, "app_id"),
                keys: Array(listed.drop { $0.key != text(vector, "publicKeykey") }),
                now: 1_700_000_000,
                ephemeral: ephemeral
            )
            XCTAssertEqual(sealed, text(vector, "pushkey"), comment(vector))
        }
        expect(.tokenTooLong) {
            _ = try SealedPushkey.seal(token: text(pushkeys, "too_long_token"), appID: "app", keys: listed)
        }
        for vector in try XCTUnwrap(pushkeys["unusable_gateway_keys"] as? [Vector]) {
            expect(.key, comment(vector)) {
                _ = try SealedPushkey.seal(token: "token", appID: "app", keys: gatewayKeys(vector["answer"]))
            }
        }
    }

    func testPushes() throws {
        for vector in try vectors("pushes") {
            let reader = try receiver(vector)
            let push = try XCTUnwrap(vector["push"] as? Vector)
            let read: Push
            if push["body"] != nil {
                read = try reader.readMessage(Data(bytes(push, "body")))
            } else {
                let rooms = try XCTUnwrap(vector["rooms"] as? [String])
                let events = try XCTUnwrap(vector["events"] as? [String])
                read = try reader.read(push, rooms: rooms, events: events)
            }
            XCTAssertEqual(about(read), vector["about"] as? NSDictionary, comment(vector))
        }
    }

    private func receiver(_ vector: Vector) throws -> Receiver {
        let keys = try XCTUnwrap(vector["keys"] as? Vector)
        let blob = try keys["private_key"].map { _ in
            try BlobKeys(restoring: Data(bytes(keys, "private_key") + bytes(keys, "auth")))
        }
        let tags = try keys["secret"].map { _ in try TagSecret(restoring: Data(bytes(keys, "secret"))) }
        return Receiver(blob: blob, tags: tags)
    }

    private func gatewayKeys(_ answer: Any?) throws -> [GatewayKey] {
        try GatewayKey.list(from: JSONSerialization.data(withJSONObject: XCTUnwrap(answer)))
    }

    /// A push in the words of the vectors.
    private func about(_ push: Push) -> NSDictionary {
        var about: Vector
        switch push {
        case .wake(let n):
            about = ["kind": "wake"]
            about["n"] = n
        case .tagged(let n, let roomID, let eventID):
            about = ["kind": "tags", "n": n, "room_id": orNull(roomID), "event_id": orNull(eventID)]
        case .sealed(let n, _):
            about = ["kind": "sealed", "notification": members(push)]
            about["n"] = n
        case .test(let eventID, let roomID):
            about = ["kind": "clear", "event_id": eventID, "room_id": orNull(roomID)]
        }
        return about as NSDictionary
    }

    private func orNull(_ text: String?) -> Any {
        if let text = text { return text }
        return NSNull()
    }

    private func members(_ push: Push) -> NSDictionary {
        guard case .sealed(_, let notification) = push else { return [:] }
        var members: Vector = ["v": 1, "prio": notification.lowPriority ? "low" : "high"]
        members["event_id"] = notification.eventID
        members["room_id"] = notification.roomID
        members["unread"] = notification.unread
        members["missed_calls"] = notification.missedCalls
        members["ts"] = notification.timestamp
        members["data"] = notification.data
        members["type"] = notification.type
        members["sender"] = notification.sender
        members["sender_display_name"] = notification.senderDisplayName
        members["room_name"] = notification.roomName
        members["room_alias"] = notification.roomAlias
        members["content"] = notification.content
        return members as NSDictionary
    }

    private func text(_ vector: Vector, _ name: String) -> String {
        vector[name] as? String ?? ""
    }

    private func comment(_ vector: Vector) -> String {
        text(vector, "comment")
    }

    private func bytes(_ vector: Vector, _ name: String) -> [UInt8] {
        unbase64(text(vector, name))
    }
}

/// The receiver of RFC 8291, appendix A, and its message.
private let rfc8291: BlobKeys = {
    let stored = unbase64("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94") + unbase64("BTBZMqHH6r4Tts7J_aSIgg")
    guard let keys = try? BlobKeys(restoring: Data(stored)) else { fatalError("the example's keys are keys") }
    return keys
}()
private let example = unbase64(
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3"
        + "jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN")

private func expect(_ error: PushError, _ message: String = "", _ body: () throws -> Void) {
    XCTAssertThrowsError(try body(), message) { XCTAssertEqual($0 as? PushError, error, message) }
}

private func expectError(_ body: () throws -> Void) {
    XCTAssertThrowsError(try body()) { XCTAssertNotNil($0 as? PushError) }
}

private func hex(_ text: String) -> [UInt8] {
    let digits = Array(text)
    return stride(from: 0, to: digits.count, by: 2).compactMap { UInt8(String(digits[$0..<$0 + 2]), radix: 16) }
}

private func base64(_ bytes: [UInt8]) -> String {
    Data(bytes).base64EncodedString().replacingOccurrences(of: "+", with: "-")
        .replacingOccurrences(of: "/", with: "_").replacingOccurrences(of: "=", with: "")
}

private func unbase64(_ text: String) -> [UInt8] {
    let base64 = text.replacingOccurrences(of: "-", with: "+").replacingOccurrences(of: "_", with: "/")
    let padding = String(repeating: "=", count: (4 - base64.count % 4) % 4)
    return [UInt8](Data(base64Encoded: base64 + padding) ?? Data())
}
