import assert from "node:assert/strict";
import { test } from "node:test";
import { codeOfLink } from "../src/views/signin/link_code";

test("the code of a link is found with the view to show afterwards", () => {
  assert.deepEqual(codeOfLink("#/signin?code=a-b_c&next=jobs%2Fa%2520b%252Fc%2Flogs%3Ftask%3D2"), {
    code: "a-b_c",
    next: "#/jobs/a%20b%2Fc/logs?task=2",
  });
  assert.deepEqual(codeOfLink("#/signin?code=x"), { code: "x", next: "#/" });
});

test("the next view cannot lead to another page", () => {
  for (const next of ["//evil.example.org", "https://evil.example.org", "#//evil", "javascript:alert(1)"]) {
    const found = codeOfLink(`#/signin?code=x&next=${encodeURIComponent(next)}`);
    assert.ok(found, next);
    assert.ok(found.next.startsWith("#/"), next);
    assert.ok(!found.next.startsWith("#//"), next);
  }
});

test("an address without a code is no sign-in link", () => {
  for (const hash of ["", "#/jobs", "#/signin", "#/signin?next=jobs", "#/signin?code=", "#/jobs?code=x"]) {
    assert.equal(codeOfLink(hash), null, hash);
  }
});
