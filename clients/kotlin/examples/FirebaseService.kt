package nocturne.push.example

import com.google.firebase.messaging.FirebaseMessagingService
import com.google.firebase.messaging.RemoteMessage
import nocturne.push.GatewayKey
import nocturne.push.PUSHER_DATA
import nocturne.push.Receiver
import nocturne.push.SealedPushkey

/** Over Google: in the manifest like any other FirebaseMessagingService, in place of the app's own. */
class FirebaseService : FirebaseMessagingService() {
    override fun onMessageReceived(message: RemoteMessage) = dispatch(message.data, App.accounts)

    override fun onNewToken(token: String) = App.registerPushers(token)
}

/** The app's. */
object App {
    var accounts: List<PushAccount> = emptyList()
    var registerPushers: (token: String) -> Unit = {}
}

/**
 * What `POST /_matrix/client/v3/pushers/set` is sent for one account. Keep `pushkey`: the pusher is removed by it.
 *
 * The keys are in `default_payload`, which is all that the Rust SDK lets an app set; the gateway takes them out.
 */
fun fcmPusher(token: String, appId: String, url: String, receiver: Receiver, keys: List<GatewayKey>): Map<String, Any> =
    mapOf(
        "kind" to "http",
        "app_id" to appId,
        "pushkey" to SealedPushkey.seal(token, appId, keys, now = System.currentTimeMillis() / 1000),
        "data" to mapOf(
            "url" to url,
            "format" to "event_id_only",
            "default_payload" to mapOf(PUSHER_DATA to receiver.pusherData()),
        ),
        // and app_display_name, device_display_name, lang, append
    )
