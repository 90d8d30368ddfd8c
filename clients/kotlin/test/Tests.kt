package nocturne.push

import java.io.File
import java.security.MessageDigest
import java.util.Base64
import java.util.Random
import kotlin.system.exitProcess

/** Runs everything; the argument is the path of `clients/test-vectors.json`. */
fun main(arguments: Array<String>) {
    standards()
    keysAndPushes()
    malformed()
    vectors(Node(Json.parse(File(arguments.single()).readText())))
    println("$passed passed, $failed failed")
    exitProcess(if (failed == 0 && passed > 0) 0 else 1)
}

private var passed = 0
private var failed = 0

private fun test(name: String, body: () -> Unit) {
    try {
        body()
        passed++
        println("ok      $name")
    } catch (failure: Throwable) {
        failed++
        println("FAILED  $name: $failure")
        failure.stackTrace.take(8).forEach { println("          at $it") }
    }
}

private fun same(wanted: Any?, found: Any?) {
    if (wanted != found) throw AssertionError("wanted $wanted, found $found")
}

private fun throws(error: PushError, body: () -> Unit) {
    try {
        body()
    } catch (exception: PushException) {
        return same(error, exception.error)
    }
    throw AssertionError("no $error")
}

private fun standards() {
    test("example of RFC 8291, appendix A") {
        same("When I grow up, I want to be a watermelon", RECEIVER.open(EXAMPLE).decodeToString())
    }
    test("example of RFC 9180, appendix A.1.1") {
        val sealed = Hpke.seal(
            hex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d"),
            "Ode on a Grecian Urn".toByteArray(),
            "Count-0".toByteArray(),
            "Beauty is truth, truth beauty".toByteArray(),
            hex("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736"),
        )
        same(
            "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431" +
                "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a",
            hex(sealed),
        )
    }
    for ((name, multiply) in mapOf("platform" to X25519::platform, "ladder" to X25519::ladder)) {
        test("X25519, $name: RFC 7748, §5.2") {
            for ((scalar, u, result) in listOf(
                Triple(
                    "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
                    "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
                    "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
                ),
                Triple( // a point with its highest bit set
                    "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
                    "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
                    "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
                ),
                Triple( // the base point: the ephemeral keys of RFC 9180, appendix A.1.1
                    "52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736",
                    "0900000000000000000000000000000000000000000000000000000000000000",
                    "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431",
                ),
            )) {
                same(result, hex(multiply(hex(scalar), hex(u))!!))
            }
        }
    }
    test("X25519: platform and ladder agree") {
        val random = Random(1)
        repeat(200) {
            val scalar = ByteArray(32).also(random::nextBytes)
            val u = ByteArray(32).also(random::nextBytes)
            same(hex(X25519.platform(scalar, u)!!), hex(X25519.ladder(scalar, u)))
        }
    }
    test("X25519: a public key of small order is refused") {
        val order8 = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"
        for (point in listOf("00".repeat(32), "01" + "00".repeat(31), order8).map(::hex)) {
            throws(PushError.KEY) { X25519.agree(ByteArray(32) { 7 }, point) }
            throws(PushError.KEY) { SealedPushkey.seal("token", "app", listOf(gatewayKey(point)), NOW) }
        }
    }
}

private fun keysAndPushes() {
    test("pusher data is what the specification says") {
        val data = Receiver(json, BlobKeys.generate()).pusherData()
        same(listOf("v", "p256dh", "auth"), data.keys.toList())
        same(listOf(1, 87, 22), listOf(data["v"], "${data["p256dh"]}".length, "${data["auth"]}".length))
        same(data, webPushPusherData("${data["p256dh"]}", "${data["auth"]}"))
        same(mapOf("v" to 1), Receiver(json).pusherData())
    }
    test("keys survive being stored, and no two are the same") {
        val keys = BlobKeys.generate()
        same(hex(keys.store()), hex(BlobKeys.restore(keys.store()).store()))
        same(false, hex(keys.store()) == hex(BlobKeys.generate().store()))
        same(false, hex(TagSecret.generate().store()) == hex(TagSecret.generate().store()))
    }
    test("a sealed pushkey is another one every time, of one length, and short enough for a pusher") {
        val keys = listOf(gatewayKey(X25519.publicKey(ByteArray(32) { 3 })))
        val sealed = listOf("", "t", "t".repeat(254)).flatMap { token ->
            List(2) { SealedPushkey.seal(token, "app", keys, NOW) }
        }
        same(sealed.size, sealed.toSet().size)
        same(setOf(411), sealed.map { it.length }.toSet())
        throws(PushError.TOKEN_TOO_LONG) { SealedPushkey.seal("é".repeat(128), "app", keys, NOW) }
    }
    test("the first of the gateway's keys that can be used is used") {
        val (old, new) = List(2) { X25519.publicKey(ByteArray(32) { _ -> it.toByte() }) }.map(::gatewayKey)
        val over = GatewayKey(new.id, new.alg, new.key, NOW)
        val wanted = mapOf(listOf(new, old) to new, listOf(over, old) to old, listOf(over, new, old) to new)
        for ((keys, chosen) in wanted) {
            same(chosen.id, bytes(SealedPushkey.seal("t", "app", keys, NOW).removePrefix("nk1."))[0].toInt() and 255)
        }
    }
    test("a notification's members of other types count as absent") {
        val push = """{"v":1.0,"event_id":5,"room_id":"!r","unread":"many","ts":7,"prio":"low"}"""
        val notification = (Receiver.readOpened(push, json) as Push.Sealed).notification
        same(
            listOf(null, "!r", null, 7L, true),
            notification.run { listOf(eventId, roomId, unread, timestamp, lowPriority) },
        )
    }
    test("tags without the secret, and a push of an app without keys, say that there is something") {
        val push = mapOf("n" to "A".repeat(22), "r" to "A".repeat(22), "e" to null)
        same("A".repeat(22), (Receiver(json, blob = BlobKeys.generate()).read(push) as Push.Wake).n)
        same(null, (Receiver(json).read(emptyMap()) as Push.Wake).n)
        throws(PushError.KEY) { Receiver(json).read(push + ("p" to "AAAA")) }
    }
}

private fun malformed() {
    test("a message that is cut anywhere does not open") {
        for (length in EXAMPLE.indices) refused { RECEIVER.open(EXAMPLE.copyOf(length)) }
        throws(PushError.SEALED) { RECEIVER.open(EXAMPLE + 0) }
        throws(PushError.FORM) { RECEIVER.open(ByteArray(100_000)) }
    }
    test("a message that is changed anywhere does not open") {
        for (place in EXAMPLE.indices) {
            val changed = EXAMPLE.copyOf().also { it[place] = (it[place].toInt() xor 1).toByte() }
            // the record size is no part of what is authenticated (RFC 8188 §2.1), only that the message fits into it
            if (place in 16..19) RECEIVER.open(changed) else refused { RECEIVER.open(changed) }
        }
    }
    test("garbage is refused with the error that is promised") {
        val random = Random(2)
        val receiver = Receiver(json, RECEIVER, TagSecret.generate())
        repeat(2_000) {
            val garbage = ByteArray(random.nextInt(300)).also(random::nextBytes)
            if (garbage.size > 21 && random.nextBoolean()) garbage[20] = 65
            refused { RECEIVER.open(garbage) }
            refused { receiver.readMessage(garbage) }
            refused { receiver.read(mapOf("p" to base64(garbage))) }
            refused { receiver.read(mapOf("p" to String(garbage, Charsets.ISO_8859_1))) }
            refused { Receiver.readOpened(String(garbage, Charsets.ISO_8859_1), json) }
            throws(PushError.KEY) { BlobKeys.restore(garbage) }
        }
        val good = "A".repeat(22)
        for (bad in listOf("", "=", "A", "!", "é", "AAAA", "A".repeat(21), "A".repeat(23), "A".repeat(44))) {
            throws(PushError.FORM) { receiver.read(mapOf("n" to bad, "r" to good)) }
            throws(PushError.FORM) { receiver.read(mapOf("n" to good, "r" to bad)) }
            throws(PushError.FORM) { receiver.read(mapOf("n" to good, "e" to bad)) }
            throws(PushError.KEY) { SealedPushkey.seal("t", "app", listOf(GatewayKey(0, "x25519", bad, null)), NOW) }
        }
        throws(PushError.KEY) { TagSecret.restore(ByteArray(31)) }
        throws(PushError.KEY) { BlobKeys.restore(ByteArray(113)) }
    }
    test("no error tells what was in the push") {
        same("nocturne push: form", PushException(PushError.FORM).message)
    }
}

/** Everything in `clients/test-vectors.json` that a device does. */
private fun vectors(file: Node) {
    for (vector in file["pusher_data"].list) {
        test("pusher data: ${vector.comment}") {
            same(vector["nocturne"].value, widened(receiver(vector["keys"]).pusherData()))
        }
    }
    for (vector in file["tags"].list) {
        test("tags: ${vector.comment}") {
            val secret = TagSecret.restore(bytes(vector["secret"].text))
            val (room, event) = vector["room_id"].text to vector["event_id"].text
            same(room, secret.room(vector["n"].text, vector["r"].text, listOf("!no", event, room)))
            same(event, secret.event(vector["n"].text, vector["e"].text, listOf("\$no", room, event)))
            same(null, secret.room(vector["n"].text, vector["r"].text, listOf("!no", event)))
            same(null, secret.event(vector["n"].text, vector["r"].text, listOf(event, room)))
        }
    }
    for (vector in file["blobs"].list) {
        test("blob: ${vector.comment}") {
            val keys = blobKeys(vector["keys"])!!
            val message = bytes(vector["p"].text)
            same(86 + vector["padded_to"].number.toInt() + 16, message.size)
            same(vector["json"].value, Json.parse(keys.open(message).decodeToString()))
            same(vector["json"].value, members(Receiver(json, keys).read(mapOf("p" to vector["p"].text))))
        }
    }
    for (vector in file["broken_blobs"].list) {
        test("broken blob: ${vector.comment}") {
            throws(PushError.valueOf(vector["problem"].text.uppercase())) {
                receiver(vector["keys"]).read(mapOf("p" to vector["p"].text))
            }
        }
    }
    val pushkeys = file["pushkeys"]
    val listed = gatewayKeys(pushkeys["gateway_keys"])
    for (vector in pushkeys["sealed"].list) {
        test("sealed pushkey: ${vector.comment}") {
            val keys = listed.dropWhile { it.key != vector["public_key"].text }
            val ephemeral = bytes(vector["ephemeral_private_key"].text)
            val sealed = SealedPushkey.seal(vector["token"].text, vector["app_id"].text, keys, NOW, ephemeral)
            same(vector["pushkey"].text, sealed)
        }
    }
    test("sealed pushkey: a token that is too long") {
        throws(PushError.TOKEN_TOO_LONG) { SealedPushkey.seal(pushkeys["too_long_token"].text, "app", listed, NOW) }
    }
    for (vector in pushkeys["unusable_gateway_keys"].list) {
        test("unusable gateway keys: ${vector.comment}") {
            throws(PushError.KEY) { SealedPushkey.seal("token", "app", gatewayKeys(vector["answer"]), NOW) }
        }
    }
    for (vector in file["pushes"].list) {
        test("push over ${vector["provider"].text}: ${vector.comment}") {
            val receiver = receiver(vector["keys"])
            val push = vector["push"]
            val about = if (push["body"].value != null) {
                val body = bytes(push["body"].text)
                val text = blobKeys(vector["keys"])!!.open(body).decodeToString()
                same(vector["opened"].value, Json.parse(text))
                same(about(receiver.readMessage(body)), about(Receiver.readOpened(text, json)))
                receiver.readMessage(body)
            } else {
                val texts = push.members.mapValues { (_, value) -> value as? String }
                receiver.read(texts, vector["rooms"].list.map { it.text }, vector["events"].list.map { it.text })
            }
            same(vector["about"].value, about(about))
        }
    }
}

/** A push in the words of the vectors. */
private fun about(push: Push): Map<String, Any?> {
    val about = when (push) {
        is Push.Wake -> mapOf("kind" to "wake")
        is Push.Tagged -> mapOf("kind" to "tags", "room_id" to push.roomId, "event_id" to push.eventId)
        is Push.Sealed -> mapOf("kind" to "sealed", "notification" to members(push))
        is Push.Test -> mapOf("kind" to "clear", "event_id" to push.eventId, "room_id" to push.roomId)
    }
    return about + listOfNotNull(push.n?.let { "n" to it })
}

private fun members(push: Push): Map<String, Any?> = (push as Push.Sealed).notification.run {
    mapOf(
        "v" to 1L,
        "event_id" to eventId,
        "room_id" to roomId,
        "unread" to unread,
        "missed_calls" to missedCalls,
        "prio" to if (lowPriority) "low" else "high",
        "ts" to timestamp,
        "data" to data,
        "type" to type,
        "sender" to sender,
        "sender_display_name" to senderDisplayName,
        "room_name" to roomName,
        "room_alias" to roomAlias,
        "content" to content,
    ).filterValues { it != null }
}

private fun receiver(keys: Node) =
    Receiver(json, blobKeys(keys), keys["secret"].value?.let { TagSecret.restore(bytes(it as String)) })

private fun blobKeys(keys: Node): BlobKeys? {
    if (keys["private_key"].value == null) return null
    val (privateKey, p256dh, auth) = listOf("private_key", "p256dh", "auth").map { bytes(keys[it].text) }
    return BlobKeys.restore(privateKey + p256dh + auth)
}

private fun gatewayKeys(answer: Node): List<GatewayKey> = (answer["keys"].value as? List<*>).orEmpty().map(::Node).map {
    GatewayKey(it["id"].number.toInt(), it["alg"].text, it["key"].text, it["not_after"].value as Long?)
}

private fun gatewayKey(key: ByteArray): GatewayKey {
    val id = MessageDigest.getInstance("SHA-256").digest(key)[0].toInt() and 255
    return GatewayKey(id, "x25519", base64(key), null)
}

private fun refused(body: () -> Unit) {
    try {
        body()
    } catch (exception: PushException) {
        return
    }
    throw AssertionError("was taken")
}

private fun widened(members: Map<String, Any>) = members.mapValues { (_, value) -> (value as? Int)?.toLong() ?: value }

/** A value in the vectors. */
private class Node(val value: Any?) {
    val text get() = value as String
    val number get() = value as Long
    val list get() = (value as List<*>).map(::Node)
    val comment get() = this["comment"].text

    @Suppress("UNCHECKED_CAST")
    val members get() = value as Map<String, Any?>

    operator fun get(name: String) = Node(members[name])
}

@Suppress("UNCHECKED_CAST")
private val json: JsonReader = { text -> (Json.parse(text) as Map<String, Any?>)::get }

private const val NOW = 1_700_000_000L

/** RFC 8291, appendix A. */
private val RECEIVER = BlobKeys.restore(
    bytes("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94") +
        bytes("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4") +
        bytes("BTBZMqHH6r4Tts7J_aSIgg"),
)
private val EXAMPLE = bytes(
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3" +
        "jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN",
)

private fun bytes(base64url: String): ByteArray = Base64.getUrlDecoder().decode(base64url)

private fun base64(bytes: ByteArray): String = Base64.getUrlEncoder().withoutPadding().encodeToString(bytes)

private fun hex(text: String) = ByteArray(text.length / 2) { text.substring(2 * it, 2 * it + 2).toInt(16).toByte() }

private fun hex(bytes: ByteArray) = bytes.joinToString("") { "%02x".format(it) }
