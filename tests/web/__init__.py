"""Tests of the page. pytest ends a fixture of the scope `package` with the folder only if the folder is a package."""
