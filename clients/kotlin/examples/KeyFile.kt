package nocturne.push.example

import android.content.Context
import android.security.keystore.KeyGenParameterSpec
import android.security.keystore.KeyProperties
import java.io.File
import java.security.GeneralSecurityException
import java.security.KeyStore
import javax.crypto.Cipher
import javax.crypto.KeyGenerator
import javax.crypto.SecretKey
import javax.crypto.spec.GCMParameterSpec
import nocturne.push.BlobKeys
import nocturne.push.PushException

/**
 * The keys of an account's pusher, in a file of the app that a key in the Android Keystore encrypts. It is left out of
 * backups, and can be read once the device was unlocked after a start, also while it is locked again.
 */
class KeyFile(context: Context, account: String) {
    private val file = File(context.noBackupFilesDir, "nocturne-$account")

    /** Null where there are none, or none that can be read: then generate, save and register the pusher anew. */
    fun load(): BlobKeys? = try {
        val stored = file.readBytes()
        val cipher = Cipher.getInstance(TRANSFORMATION)
        cipher.init(Cipher.DECRYPT_MODE, key(), GCMParameterSpec(128, stored.copyOf(NONCE)))
        BlobKeys.restore(cipher.doFinal(stored.copyOfRange(NONCE, stored.size)))
    } catch (exception: java.io.IOException) {
        null
    } catch (exception: GeneralSecurityException) {
        null
    } catch (exception: IndexOutOfBoundsException) {
        null
    } catch (exception: PushException) {
        null
    }

    fun save(keys: BlobKeys) {
        val cipher = Cipher.getInstance(TRANSFORMATION)
        cipher.init(Cipher.ENCRYPT_MODE, key())
        val whole = File(file.path + ".new")
        whole.writeBytes(cipher.iv + cipher.doFinal(keys.store()))
        check(whole.renameTo(file)) { "the keys were not saved" }
    }

    private fun key(): SecretKey {
        val keyStore = KeyStore.getInstance("AndroidKeyStore").apply { load(null) }
        (keyStore.getKey(ALIAS, null) as? SecretKey)?.let { return it }
        val purposes = KeyProperties.PURPOSE_ENCRYPT or KeyProperties.PURPOSE_DECRYPT
        val generator = KeyGenerator.getInstance("AES", "AndroidKeyStore")
        generator.init(
            KeyGenParameterSpec.Builder(ALIAS, purposes)
                .setBlockModes(KeyProperties.BLOCK_MODE_GCM)
                .setEncryptionPaddings(KeyProperties.ENCRYPTION_PADDING_NONE)
                .build(),
        )
        return generator.generateKey()
    }

    private companion object {
        const val ALIAS = "nocturne"
        const val NONCE = 12
        const val TRANSFORMATION = "AES/GCM/NoPadding"
    }
}
