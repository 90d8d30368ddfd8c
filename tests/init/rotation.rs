//! `init --rotate`, before a real relay.

use std::fs;

use crate::{
    folder::{Folder, mode},
    services::Relay,
};

#[tokio::test]
async fn old_and_new_secret_both_allocate_and_nothing_else_is_different() {
    let folder = Folder::made();
    let relay = Relay::start(&folder).await;
    let old = folder.secrets().remove(0);
    let (before, setup_before) = (folder.read("turn-relay.yaml"), folder.read("SETUP.md"));
    relay.allocates_with(&old).expect("it is good");

    let said = folder.rotate();
    assert!(said.succeeded, "{said:?}");
    let secrets = folder.secrets();
    assert_eq!(secrets.len(), 2);
    let new = secrets[0].clone();
    assert_eq!(secrets[1], old);
    assert_eq!(new.len(), 43);
    let line = format!("  - \"{new}\"\n");
    assert_eq!(
        folder.read("turn-relay.yaml").replacen(&line, "", 1),
        before
    );
    assert_eq!(mode(&folder.file("turn-relay.yaml")), 0o600);
    // and everything that is to be pasted has the new one
    assert_eq!(folder.read("SETUP.md"), setup_before.replace(&old, &new));
    assert!(setup_before.matches(&old).count() > 8);
    for step in [
        "1. reload the relay",
        "2. give the new secret",
        "3. 12 hours after that",
    ] {
        assert!(said.out.contains(step), "{}", said.out);
    }

    assert_eq!(
        relay.allocates_with(&new),
        Err(401),
        "not before the reload"
    );
    relay.reload().await;
    relay.allocates_with(&new).expect("it is good");
    relay.allocates_with(&old).expect("it is still good");

    // as the last step says
    folder.write(
        "turn-relay.yaml",
        &folder
            .read("turn-relay.yaml")
            .replace(&format!("  - \"{old}\"\n"), ""),
    );
    relay.reload().await;
    relay.allocates_with(&new).expect("it is good");
    assert_eq!(relay.allocates_with(&old), Err(401));
}

#[test]
fn secrets_in_a_file_of_their_own_rotate_there() {
    let folder = Folder::made();
    let old = folder.secrets().remove(0);
    let elsewhere = folder.path().with_file_name("elsewhere");
    fs::create_dir(&elsewhere).expect("made");
    for place in [folder.file("turn-secrets"), elsewhere.join("turn-secrets")] {
        let yaml = format!(
            "realm: turn.example.org\nsecrets_file: {}\n",
            place.display()
        );
        folder.write("turn-relay.yaml", &yaml);
        let text =
            format!("# the newest first\n\n{old}\n# the oldest\nan even older one, long enough\n");
        stand_ins::write_secret(&place, &text).expect("written");
        let said = folder.rotate();
        assert!(said.succeeded, "{said:?}");
        assert!(
            said.out.contains(place.to_str().expect("UTF-8")),
            "{}",
            said.out
        );
        assert_eq!(folder.read("turn-relay.yaml"), yaml);
        let after = fs::read_to_string(&place).expect("readable");
        let new = after.lines().nth(2).expect("a line").to_owned();
        assert_eq!(after, text.replace(&old, &format!("{new}\n{old}")));
        assert_eq!(new.len(), 43);
        assert_eq!(mode(&place), 0o600);
        assert!(folder.read("SETUP.md").contains(&new));
        folder.write("SETUP.md", &folder.read("SETUP.md").replace(&new, &old));
    }
}

#[test]
fn a_list_that_is_written_otherwise_keeps_its_form() {
    let folder = Folder::made();
    let old = folder.secrets().remove(0);
    for (before, after) in [
        (
            "secrets: SECRET # why\n",
            "secrets: [\"NEW\", \"SECRET\"] # why\n",
        ),
        (
            "secrets: [\"SECRET\"]\n",
            "secrets: [\"NEW\", \"SECRET\"]\n",
        ),
        (
            "secrets:\r\n- SECRET\r\n",
            "secrets:\r\n- \"NEW\"\r\n- SECRET\r\n",
        ),
    ] {
        let file = format!(
            "# mine\nrealm: 'turn.example.org'   # ä\n{}# end",
            before.replace("SECRET", &old)
        );
        folder.write("turn-relay.yaml", &file);
        let said = folder.rotate();
        assert!(said.succeeded, "{said:?}");
        let found = folder.read("turn-relay.yaml");
        let place = after.find("NEW").expect("a place") + file.find("secrets:").expect("the list");
        let new = &found[place..place + 43];
        let after = after.replace("NEW", new).replace("SECRET", &old);
        assert_eq!(found, file.replace(&before.replace("SECRET", &old), &after));
        folder.write("SETUP.md", &folder.read("SETUP.md").replace(new, &old));
    }
}

#[test]
fn what_cannot_be_rotated_is_left_alone() {
    let folder = Folder::made();
    let good = folder.read("turn-relay.yaml");
    let list: String = (0..16).fold(String::new(), |list, number| {
        list + &format!("  - secret number {number}, long enough\n")
    });
    let many = format!("realm: turn.example.org\nsecrets:\n{list}");
    for (text, problem) in [
        ("realm: [\n", "not valid YAML"),
        (
            "realm: turn.example.org\nsecrets: []\n",
            "found an empty list",
        ),
        (
            "realm: turn.example.org\nsecrets: &a [one that is long enough]\n",
            "is no plain list of texts",
        ),
        (&many, "has 16 secrets"),
    ] {
        folder.write("turn-relay.yaml", text);
        let before = folder.content();
        let said = folder.rotate();
        assert!(!said.succeeded, "{said:?}");
        assert!(said.err.contains(problem), "{}", said.err);
        assert_eq!(folder.content(), before);
    }
    folder.write("turn-relay.yaml", &good);
    fs::remove_file(folder.file("SETUP.md")).expect("removed");
    let said = folder.rotate();
    assert!(said.succeeded, "{said:?}");
    assert!(
        said.out.contains("it is the first of the list"),
        "{}",
        said.out
    );
    let nowhere = Folder::none().rotate();
    assert!(nowhere.err.contains("is not there"), "{nowhere:?}");
}
