/*
 * Nocturne's opaque push, the receiving side (spec/opaque-push.md): one file for Android (API 26 and newer)
 * and the JVM (11 and newer), on javax.crypto and java.security alone. Copy it into the app.
 *
 * Reading JSON is left to the caller, who has org.json on Android: see [JsonReader].
 */
package nocturne.push

import java.math.BigInteger
import java.nio.ByteBuffer
import java.security.AlgorithmParameters
import java.security.GeneralSecurityException
import java.security.KeyFactory
import java.security.KeyPairGenerator
import java.security.MessageDigest
import java.security.SecureRandom
import java.security.interfaces.ECPrivateKey
import java.security.interfaces.ECPublicKey
import java.security.spec.ECFieldFp
import java.security.spec.ECGenParameterSpec
import java.security.spec.ECParameterSpec
import java.security.spec.ECPoint
import java.security.spec.ECPrivateKeySpec
import java.security.spec.ECPublicKeySpec
import java.security.spec.PKCS8EncodedKeySpec
import java.security.spec.X509EncodedKeySpec
import java.util.Base64
import javax.crypto.AEADBadTagException
import javax.crypto.Cipher
import javax.crypto.KeyAgreement
import javax.crypto.Mac
import javax.crypto.spec.GCMParameterSpec
import javax.crypto.spec.SecretKeySpec

/** Why something could not be done. No message says what was in a push or in a key. */
enum class PushError {
    /** A push, a blob or a tag is not of the form that the specification gives it. */
    FORM,

    /** A blob was sealed for other keys, or changed on its way. */
    SEALED,

    /** A blob opened, and what was in it is not what the specification says. */
    CONTENT,

    /** A blob opened, and is of a version that this code does not know. */
    VERSION,

    /** Stored keys are damaged, or the gateway has no key that can be used. */
    KEY,

    /** A token has more than the [SealedPushkey.LONGEST_TOKEN] bytes that can be sealed. */
    TOKEN_TOO_LONG,
}

/** The only exception that the functions of this file throw, whatever others sent. */
class PushException(val error: PushError) : Exception("nocturne push: ${error.name.lowercase()}")

/**
 * The caller's JSON reader: from the text of an object to its members, by name. It throws on anything else.
 * On Android: `{ JSONObject(it)::opt }`.
 */
typealias JsonReader = (text: String) -> (name: String) -> Any?

/** What a push is about. */
sealed class Push {
    /** The same for every retry of one notification: whose `n` was seen before can be dropped. Null in mode `wake`. */
    abstract val n: String?

    /** That there is something: sync. */
    class Wake(override val n: String?) : Push()

    /** Tags (§4): sync the room; null where the tag is of none of the rooms, as before an invitation is synced. */
    class Tagged(override val n: String, val roomId: String?, val eventId: String?) : Push()

    /** A sealed blob (§5): all that the notification says. */
    class Sealed(override val n: String?, val notification: SealedNotification) : Push()

    /** The client's own push test, the one push with identifiers in clear (§6). */
    class Test(val eventId: String, val roomId: String?) : Push() {
        override val n: String? get() = null
    }
}

/** What a sealed blob says (§5). */
class SealedNotification(
    val eventId: String?,
    val roomId: String?,
    val unread: Long?,
    val missedCalls: Long?,
    /** Whether the homeserver said that it is not urgent. */
    val lowPriority: Boolean,
    /** When the gateway sealed it: seconds since 1970. */
    val timestamp: Long?,
    /** The pusher's `default_payload` without the keys, as the caller's JSON reader gives an object. */
    val data: Any?,
    /** The event, where the gateway's operator chose `sealed_content`; `content` as [data]. */
    val type: String?,
    val sender: String?,
    val senderDisplayName: String?,
    val roomName: String?,
    val roomAlias: String?,
    val content: Any?,
)

/**
 * Reads pushes with the keys of one pusher: [blob], [tags], both or none. With both, the gateway seals a blob and
 * sends no tags.
 */
class Receiver(
    private val json: JsonReader,
    private val blob: BlobKeys? = null,
    private val tags: TagSecret? = null,
) {
    /**
     * The `nocturne` object (§2): it goes under the name [PUSHER_DATA] into the pusher's `data`, or into its
     * `default_payload`. The homeserver and the gateway see it; Apple and Google do not.
     */
    fun pusherData(): Map<String, Any> {
        val data = linkedMapOf<String, Any>("v" to 1)
        tags?.let { data["secret"] = base64url(it.secret) }
        blob?.let { data += webPushPusherData(base64url(it.publicKey), base64url(it.auth)) }
        return data
    }

    /**
     * Reads a push of APNs or FCM (§6) from its own members: `n`, `r`, `e`, `p`; others are passed over.
     *
     * [rooms] are those that the account is joined to or invited to, [events] those that it may be about; both are
     * only gone through for tags.
     */
    @Throws(PushException::class)
    fun read(
        push: Map<String, String?>,
        rooms: Iterable<String> = emptyList(),
        events: Iterable<String> = emptyList(),
    ): Push {
        val n = push["n"]
        val p = push["p"]
        val r = push["r"]
        val e = push["e"]
        return when {
            push["event_id"] == TEST_EVENT -> Push.Test(TEST_EVENT, push["room_id"])
            p != null -> when (val opened = readOpened(openText(unbase64url(p)), json)) {
                is Push.Sealed -> Push.Sealed(n, opened.notification)
                is Push.Wake -> Push.Wake(n)
                is Push.Tagged, is Push.Test -> opened
            }
            n != null && tags != null && (r != null || e != null) ->
                Push.Tagged(n, r?.let { tags.room(n, it, rooms) }, e?.let { tags.event(n, it, events) })
            else -> Push.Wake(n)
        }
    }

    /** Reads the body of a Web Push message, as it came over the network (§6). */
    @Throws(PushException::class)
    fun readMessage(body: ByteArray): Push = readOpened(openText(body), json)

    private fun openText(message: ByteArray): String {
        val keys = blob ?: throw PushException(PushError.KEY)
        return utf8(keys.open(message))
    }

    companion object {
        /** Reads what was in a Web Push message that another library opened, as UnifiedPush's connector does (§6). */
        @Throws(PushException::class)
        fun readOpened(text: String, json: JsonReader): Push {
            val member = try {
                json(text)
            } catch (exception: Exception) {
                throw PushException(PushError.CONTENT)
            }
            fun text(name: String) = member(name) as? String
            fun number(name: String) = (member(name) as? Number)?.toLong()
            if (text("event_id") == TEST_EVENT) return Push.Test(TEST_EVENT, text("room_id"))
            ensure((member("v") as? Number)?.toDouble() == 1.0, PushError.VERSION)
            val notification = SealedNotification(
                eventId = text("event_id"),
                roomId = text("room_id"),
                unread = number("unread"),
                missedCalls = number("missed_calls"),
                lowPriority = text("prio") == "low",
                timestamp = number("ts"),
                data = member("data"),
                type = text("type"),
                sender = text("sender"),
                senderDisplayName = text("sender_display_name"),
                roomName = text("room_name"),
                roomAlias = text("room_alias"),
                content = member("content"),
            )
            val says = listOf(notification.eventId, notification.roomId, notification.unread, notification.missedCalls)
            return if (says.all { it == null }) Push.Wake(null) else Push.Sealed(null, notification)
        }
    }
}

/** The member of the pusher's `data`, or of its `default_payload`, that the gateway looks for (§2). */
const val PUSHER_DATA = "nocturne"

/** The event that clients send to themselves to see whether pushes arrive (§6). */
const val TEST_EVENT = "\$THIS_IS_A_FAKE_EVENT_ID"

/** The `nocturne` object (§2) for keys that another library holds, as UnifiedPush's connector does. */
fun webPushPusherData(p256dh: String, auth: String): Map<String, Any> =
    mapOf("v" to 1, "p256dh" to p256dh, "auth" to auth)

/** Keys for sealed blobs (§5): one set for each pusher. */
class BlobKeys private constructor(
    private val privateKey: ECPrivateKey,
    internal val publicKey: ByteArray,
    internal val auth: ByteArray,
) {
    /** Opens a message of RFC 8291 (`aes128gcm`, one record): its content without padding. */
    @Throws(PushException::class)
    fun open(message: ByteArray): ByteArray {
        // RFC 8188 §2.1: salt, record size, length of the key ID, key ID: here the sender's public key
        ensure(message.size in HEADER + 1 + TAG..LONGEST_MESSAGE, PushError.FORM)
        val header = ByteBuffer.wrap(message)
        val salt = ByteArray(16).also { header.get(it) }
        val recordSize = header.int.toLong() and 0xffffffff
        ensure(header.get().toInt() == POINT, PushError.FORM)
        val sender = ByteArray(POINT).also { header.get(it) }
        val ciphertext = ByteArray(header.remaining()).also { header.get(it) }
        ensure(ciphertext.size <= recordSize, PushError.FORM)

        // RFC 8291 §3.4
        val shared = P256.agree(privateKey, P256.publicKey(sender) ?: throw PushException(PushError.SEALED))
        val input = hkdf(auth, shared, "WebPush: info\u0000".toByteArray() + publicKey + sender, 32)
        val key = hkdf(salt, input, "Content-Encoding: aes128gcm\u0000".toByteArray(), 16)
        val nonce = hkdf(salt, input, "Content-Encoding: nonce\u0000".toByteArray(), 12)
        val record = AesGcm.open(key, nonce, ciphertext) ?: throw PushException(PushError.SEALED)

        // RFC 8188 §2: content, the delimiter of the last record, zeros
        val end = record.indexOfLast { it != 0.toByte() }
        ensure(end >= 0 && record[end] == LAST_RECORD, PushError.CONTENT)
        return record.copyOf(end)
    }

    /** What to keep where only the app can read it: 113 bytes, the private key among them, for [restore]. */
    fun store(): ByteArray = unsigned32(privateKey.s) + publicKey + auth

    companion object {
        private const val POINT = 65
        private const val HEADER = 16 + 4 + 1 + POINT
        private const val TAG = 16
        private const val LONGEST_MESSAGE = 4096
        private const val LAST_RECORD: Byte = 2

        /** New keys. */
        fun generate(): BlobKeys {
            val (privateKey, publicKey) = P256.generate()
            return BlobKeys(privateKey, publicKey, random(16))
        }

        /** The keys that [store] gave out. */
        @Throws(PushException::class)
        fun restore(stored: ByteArray): BlobKeys {
            ensure(stored.size == 32 + POINT + 16, PushError.KEY)
            val privateKey = P256.privateKey(stored.copyOf(32))
            val publicKey = stored.copyOfRange(32, 32 + POINT)
            ensure(privateKey != null && P256.publicKey(publicKey) != null, PushError.KEY)
            return BlobKeys(privateKey!!, publicKey, stored.copyOfRange(32 + POINT, stored.size))
        }
    }
}

/** The secret for tags (§4): one for each pusher. */
class TagSecret private constructor(internal val secret: ByteArray) {
    /** The one of [rooms] that a push with `n` and `r` is about, or null. */
    @Throws(PushException::class)
    fun room(n: String, r: String, rooms: Iterable<String>): String? = find("nocturne room\u0000", n, r, rooms)

    /** The one of [events] that a push with `n` and `e` is about, or null. */
    @Throws(PushException::class)
    fun event(n: String, e: String, events: Iterable<String>): String? = find("nocturne event\u0000", n, e, events)

    private fun find(label: String, n: String, tag: String, ids: Iterable<String>): String? {
        val prefix = label.toByteArray() + unbase64url(n, 16)
        val wanted = unbase64url(tag, 16)
        val mac = hmac(secret)
        return ids.firstOrNull { id ->
            mac.update(prefix)
            MessageDigest.isEqual(mac.doFinal(id.toByteArray()).copyOf(16), wanted)
        }
    }

    /** What to keep where only the app can read it: 32 bytes, for [restore]. */
    fun store(): ByteArray = secret.copyOf()

    companion object {
        /** A new secret. */
        fun generate() = TagSecret(random(32))

        /** The secret that [store] gave out. */
        @Throws(PushException::class)
        fun restore(stored: ByteArray): TagSecret {
            ensure(stored.size == 32, PushError.KEY)
            return TagSecret(stored.copyOf())
        }
    }
}

/** One of the `keys` that the gateway lists at `GET /_nocturne/v1/keys` (§7), member by member. */
class GatewayKey(val id: Int, val alg: String, val key: String, val notAfter: Long?) {
    internal val bytes: ByteArray? = try {
        unbase64url(key, 32)
    } catch (exception: PushException) {
        null
    }

    internal fun isUsable(now: Long): Boolean = alg == "x25519" && bytes != null && id == keyId(bytes) &&
        (notAfter == null || now < notAfter)

    internal fun keyId(bytes: ByteArray): Int = MessageDigest.getInstance("SHA-256").digest(bytes)[0].toInt() and 255
}

/** Sealed pushkeys (§7): the homeserver and its database never hold the device token. */
object SealedPushkey {
    /** The longest token that can be sealed, in bytes of UTF-8. */
    const val LONGEST_TOKEN = 254

    private const val PADDED = 256
    private const val PREFIX = "nk1."
    private val INFO = "nocturne pushkey v1".toByteArray()

    /**
     * What to register as the pushkey in place of [token], for the pusher with this [appId].
     *
     * It is another one every time. Keep it: the pusher is removed, and replaced, by exactly this string.
     * [keys] are in the gateway's order, [now] is in seconds since 1970.
     */
    @Throws(PushException::class)
    fun seal(token: String, appId: String, keys: List<GatewayKey>, now: Long): String =
        seal(token, appId, keys, now, random(32))

    internal fun seal(token: String, appId: String, keys: List<GatewayKey>, now: Long, ephemeral: ByteArray): String {
        val text = token.toByteArray()
        ensure(text.size <= LONGEST_TOKEN, PushError.TOKEN_TOO_LONG)
        val newest = keys.firstOrNull { it.isUsable(now) } ?: throw PushException(PushError.KEY)
        val plaintext = (len16(text.size) + text).copyOf(PADDED)
        val sealed = Hpke.seal(newest.bytes!!, INFO, appId.toByteArray(), plaintext, ephemeral)
        return PREFIX + base64url(byteArrayOf(newest.id.toByte()) + sealed)
    }
}

/** HPKE (RFC 9180), base mode, one message: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM. */
internal object Hpke {
    private val KEM_SUITE = "KEM".toByteArray() + len16(0x20)
    private val SUITE = "HPKE".toByteArray() + len16(0x20) + len16(1) + len16(1)
    private val LABEL = "HPKE-v1".toByteArray()

    /** §6.1 `SealBase`: `enc` and the ciphertext. [ephemeral] is a private key that is used this once. */
    fun seal(
        receiver: ByteArray,
        info: ByteArray,
        aad: ByteArray,
        plaintext: ByteArray,
        ephemeral: ByteArray,
    ): ByteArray {
        // §4.1 Encap
        val shared = X25519.agree(ephemeral, receiver)
        val enc = X25519.publicKey(ephemeral)
        val prk = extract(ByteArray(0), KEM_SUITE, "eae_prk", shared)
        val secret = expand(prk, KEM_SUITE, "shared_secret", enc + receiver, 32)

        // §5.1 KeySchedule, mode_base
        val context = byteArrayOf(0) +
            extract(ByteArray(0), SUITE, "psk_id_hash", ByteArray(0)) +
            extract(ByteArray(0), SUITE, "info_hash", info)
        val schedule = extract(secret, SUITE, "secret", ByteArray(0))
        val key = expand(schedule, SUITE, "key", context, 16)
        val nonce = expand(schedule, SUITE, "base_nonce", context, 12)

        return enc + AesGcm.seal(key, nonce, aad, plaintext)
    }

    /** §4 `LabeledExtract`. */
    private fun extract(salt: ByteArray, suite: ByteArray, label: String, input: ByteArray): ByteArray =
        hkdfExtract(salt, LABEL + suite + label.toByteArray() + input)

    /** §4 `LabeledExpand`. */
    private fun expand(key: ByteArray, suite: ByteArray, label: String, info: ByteArray, length: Int): ByteArray =
        hkdfExpand(key, len16(length) + LABEL + suite + label.toByteArray() + info, length)
}

/** X25519 (RFC 7748): the platform's where it has it, else this file's own. */
internal object X25519 {
    private val BASE_POINT = ByteArray(32).also { it[0] = 9 }

    fun publicKey(scalar: ByteArray): ByteArray = multiply(scalar, BASE_POINT)

    /** The shared secret; never that of zeros which a useless public key leads to (RFC 9180 §7.1.4). */
    fun agree(scalar: ByteArray, publicKey: ByteArray): ByteArray {
        val shared = multiply(scalar, publicKey)
        ensure(shared.any { it != 0.toByte() }, PushError.KEY)
        return shared
    }

    private fun multiply(scalar: ByteArray, u: ByteArray): ByteArray = platform(scalar, u) ?: ladder(scalar, u)

    // ASN.1 of a private and a public key (RFC 8410 §§4, 7) before their 32 bytes. The platform's own classes for
    // raw keys are not understood by Android's providers.
    private val PKCS8 = unhex("302e020100300506032b656e04220420")
    private val X509 = unhex("302a300506032b656e032100")

    /** Null where there is none: Android before 12, and newer ones on which the provider that answers will not do. */
    internal fun platform(scalar: ByteArray, u: ByteArray): ByteArray? = try {
        val keys = KeyFactory.getInstance("XDH")
        val agreement = KeyAgreement.getInstance("XDH")
        agreement.init(keys.generatePrivate(PKCS8EncodedKeySpec(PKCS8 + scalar)))
        agreement.doPhase(keys.generatePublic(X509EncodedKeySpec(X509 + u)), true)
        agreement.generateSecret().takeIf { it.size == 32 }
    } catch (exception: GeneralSecurityException) {
        null
    } catch (exception: RuntimeException) { // what providers throw is not always what their interface says
        null
    }

    private val P = BigInteger.ONE.shiftLeft(255) - 19.toBigInteger()
    private val A24 = 121_665.toBigInteger()

    /**
     * RFC 7748 §5, the Montgomery ladder. How long it takes depends on the scalar, which is no harm here: the scalar
     * is drawn for one sealing, and who could measure that runs in the app already.
     */
    internal fun ladder(scalar: ByteArray, u: ByteArray): ByteArray {
        val clamped = scalar.copyOf()
        clamped[0] = (clamped[0].toInt() and 248).toByte()
        clamped[31] = (clamped[31].toInt() and 127 or 64).toByte()
        val k = littleEndian(clamped)
        val x1 = littleEndian(u).clearBit(255)
        var x2 = BigInteger.ONE
        var z2 = BigInteger.ZERO
        var x3 = x1
        var z3 = BigInteger.ONE
        var swapped = false
        for (bit in 254 downTo 0) {
            if (swapped != k.testBit(bit)) {
                x2 = x3.also { x3 = x2 }
                z2 = z3.also { z3 = z2 }
            }
            swapped = k.testBit(bit)
            val a = x2 + z2
            val aa = a * a % P
            val b = x2 - z2
            val bb = b * b % P
            val e = aa - bb
            val da = (x3 - z3) * a
            val cb = (x3 + z3) * b
            x3 = (da + cb).pow(2).mod(P)
            z3 = (x1 * (da - cb).pow(2)).mod(P)
            x2 = (aa * bb).mod(P)
            z2 = (e * (aa + A24 * e)).mod(P)
        }
        if (swapped) {
            x2 = x3
            z2 = z3
        }
        return unsigned32((x2 * z2.modPow(P - BigInteger.TWO, P)).mod(P)).reversedArray()
    }

    private fun littleEndian(bytes: ByteArray) = BigInteger(1, bytes.reversedArray())
}

/** ECDH on P-256. */
private object P256 {
    private val curve: ECParameterSpec by lazy {
        val parameters = AlgorithmParameters.getInstance("EC")
        parameters.init(ECGenParameterSpec("secp256r1"))
        parameters.getParameterSpec(ECParameterSpec::class.java)
    }

    /** A private key and its public key, as an uncompressed point (SEC 1 §2.3.3). */
    fun generate(): Pair<ECPrivateKey, ByteArray> {
        val generator = KeyPairGenerator.getInstance("EC")
        generator.initialize(ECGenParameterSpec("secp256r1"))
        val pair = generator.generateKeyPair()
        val point = (pair.public as ECPublicKey).w
        val publicKey = byteArrayOf(4) + unsigned32(point.affineX) + unsigned32(point.affineY)
        return Pair(pair.private as ECPrivateKey, publicKey)
    }

    fun privateKey(scalar: ByteArray): ECPrivateKey? {
        val number = BigInteger(1, scalar)
        if (number.signum() == 0 || number >= curve.order) return null
        return KeyFactory.getInstance("EC").generatePrivate(ECPrivateKeySpec(number, curve)) as ECPrivateKey
    }

    /** Null for a point that is not on the curve: an agreement with it would tell of the private key. */
    fun publicKey(point: ByteArray): ECPublicKey? {
        if (point.size != 65 || point[0] != 4.toByte()) return null
        val x = BigInteger(1, point.copyOfRange(1, 33))
        val y = BigInteger(1, point.copyOfRange(33, 65))
        val p = (curve.curve.field as ECFieldFp).p
        val difference = y.pow(2) - (x.pow(3) + curve.curve.a * x + curve.curve.b)
        if (x >= p || y >= p || difference.mod(p).signum() != 0) return null
        return KeyFactory.getInstance("EC").generatePublic(ECPublicKeySpec(ECPoint(x, y), curve)) as ECPublicKey
    }

    fun agree(privateKey: ECPrivateKey, publicKey: ECPublicKey): ByteArray {
        val agreement = KeyAgreement.getInstance("ECDH")
        agreement.init(privateKey)
        agreement.doPhase(publicKey, true)
        return agreement.generateSecret()
    }
}

/** AES-128-GCM with a tag of 16 bytes at the end. */
private object AesGcm {
    fun seal(key: ByteArray, nonce: ByteArray, aad: ByteArray, plaintext: ByteArray): ByteArray {
        val cipher = cipher(Cipher.ENCRYPT_MODE, key, nonce)
        cipher.updateAAD(aad)
        return cipher.doFinal(plaintext)
    }

    /** Null where the tag does not fit. */
    fun open(key: ByteArray, nonce: ByteArray, ciphertext: ByteArray): ByteArray? = try {
        cipher(Cipher.DECRYPT_MODE, key, nonce).doFinal(ciphertext)
    } catch (exception: AEADBadTagException) {
        null
    }

    private fun cipher(mode: Int, key: ByteArray, nonce: ByteArray): Cipher {
        val cipher = Cipher.getInstance("AES/GCM/NoPadding")
        cipher.init(mode, SecretKeySpec(key, "AES"), GCMParameterSpec(128, nonce))
        return cipher
    }
}

/** RFC 5869 with SHA-256, to at most one block. */
private fun hkdf(salt: ByteArray, input: ByteArray, info: ByteArray, length: Int): ByteArray =
    hkdfExpand(hkdfExtract(salt, input), info, length)

private fun hkdfExtract(salt: ByteArray, input: ByteArray): ByteArray = hmac(salt).doFinal(input)

private fun hkdfExpand(key: ByteArray, info: ByteArray, length: Int): ByteArray =
    hmac(key).doFinal(info + 1).copyOf(length)

/** An empty key stands for zeros, and Java takes no empty one (RFC 5869 §2.2). */
private fun hmac(key: ByteArray): Mac =
    Mac.getInstance("HmacSHA256").also { it.init(SecretKeySpec(key.ifEmpty { ByteArray(32) }, "HmacSHA256")) }

private fun ByteArray.ifEmpty(other: () -> ByteArray) = if (isEmpty()) other() else this

private fun len16(number: Int) = byteArrayOf((number shr 8).toByte(), number.toByte())

private fun unsigned32(number: BigInteger): ByteArray {
    val bytes = number.toByteArray() // with a zero for the sign, or with less than 32
    return ByteArray(32).also { bytes.copyInto(it, maxOf(0, 32 - bytes.size), maxOf(0, bytes.size - 32)) }
}

private fun random(size: Int) = ByteArray(size).also(SecureRandom()::nextBytes)

private fun base64url(bytes: ByteArray): String = Base64.getUrlEncoder().withoutPadding().encodeToString(bytes)

private fun unbase64url(text: String, size: Int? = null): ByteArray {
    val bytes = try {
        Base64.getUrlDecoder().decode(text)
    } catch (exception: IllegalArgumentException) {
        throw PushException(PushError.FORM)
    }
    ensure(size == null || bytes.size == size, PushError.FORM)
    return bytes
}

private fun utf8(bytes: ByteArray): String = try {
    bytes.decodeToString(throwOnInvalidSequence = true)
} catch (exception: CharacterCodingException) {
    throw PushException(PushError.CONTENT)
}

private fun unhex(text: String) = ByteArray(text.length / 2) { text.substring(2 * it, 2 * it + 2).toInt(16).toByte() }

private fun ensure(holds: Boolean, error: PushError) {
    if (!holds) throw PushException(error)
}
