package com.google.firebase.messaging

class RemoteMessage(val data: Map<String, String>)

abstract class FirebaseMessagingService {
    open fun onMessageReceived(message: RemoteMessage) = Unit
    open fun onNewToken(token: String) = Unit
}
