// A notification service extension around the one that the app has: it puts the identifiers that a sealed push names
// back to where the app looks for them, and hands the request on. Everything after that stays as it is: fetching,
// decryption, push rules, calls, the badge.
//
// Element X iOS: `NSE/Sources/NotificationServiceExtension.swift` reads `room_id`, `event_id`, `unread_count` and
// `pusher_notification_client_identifier` from `request.content.userInfo`. Its `didReceive` begins with
//     let request = Nocturne.inClear(request, accounts: …)
// Element Classic iOS: `RiotNSE/NotificationService.swift` reads the first three; the same line.

import Foundation
import NocturnePush
import UserNotifications

/// An account of the app: its pusher's keys and, for tags alone, its rooms.
struct PushAccount {
    let receiver: Receiver
    /// From the local store, those of invitations among them; only asked where tags are used.
    let roomIDs: () -> [String]
}

enum Nocturne {
    /// The request as Sygnal would have sent it, or as it is where nothing in it is for one of the accounts: then the
    /// app shows its general alert.
    static func inClear(_ request: UNNotificationRequest, accounts: [PushAccount]) -> UNNotificationRequest {
        let push = request.content.userInfo
        for account in accounts {
            do {
                let rooms = push["r"] == nil ? [] : account.roomIDs()
                switch try account.receiver.read(push, rooms: rooms) {
                case .sealed(_, let notification):
                    return request.with(members(notification))
                case .tagged(_, let roomID?, _):
                    // the room is known, the event is not: sync the room, and show what is new in it
                    return request.with(["room_id": roomID])
                case .tagged, .wake, .test:
                    continue
                }
            } catch PushError.sealed {
                continue // for another account, or for keys that are gone
            } catch {
                return request
            }
        }
        return request
    }

    /// What Sygnal writes for APNs: `default_payload` at the top, and the notification's own members.
    private static func members(_ notification: SealedNotification) -> [String: Any] {
        var members = notification.data ?? [:] // pusher_notification_client_identifier is in here
        members["aps"] = nil
        members["event_id"] = notification.eventID
        members["room_id"] = notification.roomID
        members["unread_count"] = notification.unread
        members["missed_calls"] = notification.missedCalls
        return members
    }
}

extension UNNotificationRequest {
    fileprivate func with(_ members: [String: Any]) -> UNNotificationRequest {
        guard let content = content.mutableCopy() as? UNMutableNotificationContent else { return self }
        for (name, value) in members {
            content.userInfo[name] = value
        }
        return UNNotificationRequest(identifier: identifier, content: content, trigger: trigger)
    }
}

/// For an app without an extension of its own: a generic alert, and a better one where the app can make it.
final class NotificationService: UNNotificationServiceExtension {
    private var deliver: ((UNNotificationContent) -> Void)?
    private var original: UNNotificationContent?

    override func didReceive(
        _ request: UNNotificationRequest,
        withContentHandler contentHandler: @escaping (UNNotificationContent) -> Void
    ) {
        deliver = contentHandler
        original = request.content
        let clear = Nocturne.inClear(request, accounts: loadAccounts())
        // here the app fetches and decrypts the event that `clear.content.userInfo` names, and fills the content
        finish(with: clear.content)
    }

    override func serviceExtensionTimeWillExpire() {
        if let original = original {
            finish(with: original)
        }
    }

    private func finish(with content: UNNotificationContent) {
        deliver?(content)
        deliver = nil
    }

    private func loadAccounts() -> [PushAccount] {
        Keychain(accessGroup: "TEAMID.org.example.app").accounts().compactMap { account, stored in
            guard let keys = try? BlobKeys(restoring: stored) else { return nil }
            return PushAccount(receiver: Receiver(blob: keys), roomIDs: { [] })
        }
    }
}
