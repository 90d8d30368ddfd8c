// A service worker of a Matrix client. What is in nocturne/ is this package's dist/.
import { understandMessage } from "./nocturne/index.js";

self.addEventListener("push", (event) => event.waitUntil(notify(event.data)));

async function notify(data) {
  const { title, ...options } = describe(about(data));
  await self.registration.showNotification(title, options);
}

// The browser has opened the message already. Whatever it holds, the push says that there is something new.
function about(data) {
  try {
    return understandMessage(data.json());
  } catch {
    return { kind: "wake" };
  }
}

function describe(about) {
  if (about.kind !== "sealed") {
    return { title: "New message" };
  }
  // without the gateway's `sealed_content` there are only IDs: a client fetches the event from the homeserver here
  const { room_id, event_id, room_name, sender_display_name, content } = about.notification;
  return {
    title: room_name ?? sender_display_name ?? "New message",
    body: content?.body ?? "",
    tag: room_id ?? "",
    data: { room_id, event_id },
  };
}
