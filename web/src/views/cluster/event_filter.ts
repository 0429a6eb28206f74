// Chooses the events to show. The module is pure.

import type { Controller_Event as Event } from "../../gen/iris/rpc/cluster_pb";

/** Returns the fields of an event as one text, for example `job_id=train state=RUNNING`. */
export function fieldsText(event: Event): string {
  if (event.name === "message") return event.fields["text"] ?? "";
  return Object.entries(event.fields)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => `${name}=${value}`)
    .join(" ");
}

/** Returns the events whose name or fields contain a text. With `isProblem`, only warnings and errors are returned. */
export function chosenEvents(events: readonly Event[], text: string, isProblem: boolean): Event[] {
  const wanted = text.trim().toLowerCase();
  return events.filter(
    (event) =>
      (!isProblem || event.level !== "info") &&
      (wanted === "" || `${event.name} ${fieldsText(event)}`.toLowerCase().includes(wanted)),
  );
}
