package nocturne.push.example

import nocturne.push.PUSHER_DATA
import nocturne.push.webPushPusherData
import org.unifiedpush.android.connector.FailedReason
import org.unifiedpush.android.connector.PushService
import org.unifiedpush.android.connector.data.PushEndpoint
import org.unifiedpush.android.connector.data.PushMessage

/**
 * Over UnifiedPush, with connector 3: it makes the keys, keeps them and opens the pushes, so that the app only has to
 * hand its public keys on and to read the JSON. An app with the older `MessagingReceiver` does the same in the same
 * four methods.
 */
class UnifiedPushService : PushService() {
    override fun onNewEndpoint(endpoint: PushEndpoint, instance: String) {
        val keys = endpoint.pubKeySet ?: return // a connector that is too old: the gateway could only send in clear
        val nocturne = webPushPusherData(keys.pubKey, keys.auth)
        UnifiedPushApp.registerPusher(instance, endpoint.url, mapOf("default_payload" to mapOf(PUSHER_DATA to nocturne)))
    }

    override fun onMessage(message: PushMessage, instance: String) {
        val account = UnifiedPushApp.account(instance) ?: return
        // whoever knows the endpoint can send what is not encrypted
        if (message.decrypted) dispatchOpened(message.content.decodeToString(), account) else account.sync()
    }

    override fun onRegistrationFailed(reason: FailedReason, instance: String) = Unit

    override fun onUnregistered(instance: String) = Unit
}

/** The app's. */
object UnifiedPushApp {
    var account: (instance: String) -> PushAccount? = { null }
    var registerPusher: (instance: String, pushkey: String, data: Map<String, Any>) -> Unit = { _, _, _ -> }
}
