use super::{catalogue::category, selector::COMMANDS_MAX, *};
use crate::{
    base::Rng,
    cmd::Table,
    resp::{Args, OwnedArgs},
};

fn user(rules: &str) -> User {
    let mut user = User::new(b"ann");
    for rule in rules.split(' ').filter(|rule| !rule.is_empty()) {
        user.apply(rule.as_bytes()).expect(rule);
    }
    user
}

fn wrong(before: &str, rule: &str) -> &'static str {
    let mut user = user(before);
    let copy = user.clone();
    let error = user.apply(rule.as_bytes()).expect_err(rule);
    assert_eq!(user, copy, "{rule} changed something");
    error.text()
}

fn check(user: &User, request: &str) -> Result<(), Denied> {
    let words = OwnedArgs::copy(request.split(' ').map(str::as_bytes));
    let args: Args<'_> = words.as_args();
    let spec = Table::build().find(args.at(0)).expect(request);
    let asked = Asked::of(spec, args).expect(request);
    user.check(&asked)
}

fn commands(user: &User) -> String {
    String::from_utf8(user.described().0.commands_text()).expect("text")
}

#[test]
fn every_command_has_a_bit_and_a_category() {
    assert!(catalogue().len() < COMMANDS_MAX);
    for (_, named) in catalogue().all() {
        assert!(named.categories != 0, "{}", named.name);
    }
    let table = Table::build();
    for (_, spec) in crate::cmd::all().filter(|(_, spec)| !spec.name.starts_with("XINTERNAL.")) {
        let number = catalogue().number_of(spec).expect(spec.name);
        assert_eq!(catalogue().named(number).name, spec.name.to_lowercase());
        assert!(table.find(spec.name.as_bytes()).is_some());
    }
}

#[test]
fn a_new_user_may_do_nothing_and_cannot_come_in() {
    let nobody = user("");
    assert!(!nobody.admits(b"") && !nobody.is_unlimited());
    assert_eq!(check(&nobody, "get a"), Err(Denied::Command));
    assert_eq!(check(&nobody, "auth a"), Ok(()));
    assert_eq!(nobody.line(), b"user ann off resetchannels -@all");
}

#[test]
fn only_the_right_password_opens_and_only_while_the_user_is_on() {
    let mut one = user("on >secret >other");
    assert!(one.admits(b"secret") && one.admits(b"other") && !one.admits(b"Secret"));
    one.apply(b"<secret").expect("it is there");
    assert!(!one.admits(b"secret") && one.admits(b"other"));
    one.apply(b"off").expect("a rule");
    assert!(!one.admits(b"other"));
    one.apply(b"nopass").expect("a rule");
    assert!(!one.admits(b"any"));
    one.apply(b"on").expect("a rule");
    assert!(one.admits(b"any"));
    one.apply(b"resetpass").expect("a rule");
    assert!(!one.admits(b"any") && !one.admits(b""));
    let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    assert!(user(&format!("on #{hash}")).admits(b"secret"));
    assert_eq!(user("on >secret").passwords().next().as_deref(), Some(hash));
}

#[test]
fn rules_that_cannot_be_followed_change_nothing() {
    let texts = [
        ("", "foo", "Syntax error"),
        ("", "%~a", "Syntax error"),
        ("", "%", "Syntax error"),
        ("", "%RX~a", "Syntax error"),
        ("", "~a b", "Syntax error"),
        ("", "+debug|", "Syntax error"),
        ("", "(foo)", "Syntax error"),
        ("", "+nosuch", "Unknown command or category name in ACL"),
        (
            "",
            "+config|nosuch",
            "Unknown command or category name in ACL",
        ),
        ("", "-select|1", "Unknown command or category name in ACL"),
        ("", "+@nosuch", "Unknown command or category name in ACL"),
        (
            "",
            "+config|get|x",
            "Allowing first-arg of a subcommand is not supported",
        ),
    ];
    for (before, rule, text) in texts {
        assert_eq!(wrong(before, rule), text, "{rule}");
    }
    assert!(wrong("~*", "~a").contains("'allkeys'"));
    assert!(wrong("&*", "&a").contains("'allchannels'"));
    assert!(wrong("", "<none").ends_with("does not exist"));
    assert!(wrong("", "#ABC").contains("exactly 64"));
}

#[test]
fn commands_are_allowed_by_name_category_and_first_argument() {
    let one = user("+@read -mget +config|get +select|0 ~*");
    assert_eq!(check(&one, "get a"), Ok(()));
    assert_eq!(check(&one, "mget a b"), Err(Denied::Command));
    assert_eq!(check(&one, "set a b"), Err(Denied::Command));
    assert_eq!(check(&one, "config get a"), Ok(()));
    assert_eq!(check(&one, "CONFIG GET a"), Ok(()));
    assert_eq!(check(&one, "config set a b"), Err(Denied::Command));
    assert_eq!(check(&one, "select 0"), Ok(()));
    assert_eq!(check(&one, "select 1"), Err(Denied::Command));
    let one = user("+@all -config|set ~*");
    assert_eq!(check(&one, "config get a"), Ok(()));
    assert_eq!(check(&one, "config set a b"), Err(Denied::Command));
    assert!(!one.is_unlimited());
}

#[test]
fn keys_are_judged_by_what_is_done_to_them() {
    let one = user("+@all %R~in:* %W~out:* ~both:*");
    assert_eq!(check(&one, "get in:1"), Ok(()));
    assert_eq!(check(&one, "get out:1"), Err(Denied::Key(1)));
    assert_eq!(check(&one, "set out:1 x"), Ok(()));
    assert_eq!(check(&one, "set out:1 x get"), Err(Denied::Key(1)));
    assert_eq!(check(&one, "set both:1 x get"), Ok(()));
    assert_eq!(check(&one, "copy in:1 out:1"), Ok(()));
    assert_eq!(check(&one, "copy out:1 in:1"), Err(Denied::Key(1)));
    assert_eq!(check(&one, "copy in:1 in:2"), Err(Denied::Key(2)));
    assert_eq!(check(&one, "zunionstore out:1 2 in:1 in:2"), Ok(()));
    assert_eq!(
        check(&one, "zunionstore out:1 2 in:1 out:2"),
        Err(Denied::Key(4))
    );
    assert_eq!(check(&one, "sort in:1 store out:1"), Ok(()));
    assert_eq!(check(&one, "sort in:1 store in:2"), Err(Denied::Key(3)));
    assert_eq!(check(&one, "exists other"), Err(Denied::Key(1)));
    assert_eq!(check(&one, "exists out:1"), Ok(()));
    assert_eq!(
        check(&one, "xread streams in:1 out:1 0 0"),
        Err(Denied::Key(3))
    );
    assert_eq!(check(&one, "eval x 1 in:1"), Err(Denied::Key(3)));
}

#[test]
fn no_key_that_a_request_finds_its_shard_by_is_left_out() {
    let one = user("+@all ~a ~streams");
    // The group is called like the keyword, so that the rule of the book finds other keys than are touched.
    let request = "xreadgroup count 1 group streams a streams zz 0";
    assert_eq!(check(&one, request), Err(Denied::Key(7)));
}

#[test]
fn channels_must_fit_and_patterns_must_be_the_same() {
    let one = user("+@all ~* &news.* &x");
    assert_eq!(check(&one, "publish news.1 a"), Ok(()));
    assert_eq!(check(&one, "publish other a"), Err(Denied::Channel(1)));
    assert_eq!(check(&one, "subscribe x news.2"), Ok(()));
    assert_eq!(check(&one, "subscribe x other"), Err(Denied::Channel(2)));
    assert_eq!(check(&one, "ssubscribe other"), Err(Denied::Channel(1)));
    assert_eq!(check(&one, "psubscribe news.*"), Ok(()));
    assert_eq!(check(&one, "psubscribe news.1*"), Err(Denied::Channel(1)));
    assert_eq!(check(&one, "unsubscribe other"), Ok(()));
}

#[test]
fn one_selector_must_allow_all_of_a_request() {
    let mut one = user("+get ~a*");
    one.apply(b"(+set ~b*)").expect("a selector");
    assert_eq!(check(&one, "get a"), Ok(()));
    assert_eq!(check(&one, "set b x"), Ok(()));
    assert_eq!(check(&one, "set a x"), Err(Denied::Key(1)));
    assert_eq!(check(&one, "del a"), Err(Denied::Command));
    assert!(
        String::from_utf8_lossy(&one.line()).ends_with("-@all +get (~b* resetchannels -@all +set)")
    );
    one.apply(b"clearselectors").expect("a rule");
    assert_eq!(check(&one, "set b x"), Err(Denied::Command));
}

#[test]
fn what_users_are_described_by_makes_them_again() {
    let mut rng = Rng::seeded(7);
    let names: Vec<&str> = catalogue().all().map(|(_, named)| named.name).collect();
    for _ in 0..300 {
        let mut one = user("on >pw");
        for _ in 0..rng.below(12) {
            let sign = ["+", "-"][rng.below(2) as usize];
            let name = match rng.below(3) {
                0 => format!("@{}", CATEGORIES[rng.below(21) as usize]),
                1 if rng.below(8) == 0 => "@all".to_string(),
                _ => names[rng.below(names.len() as u64) as usize].to_string(),
            };
            one.apply(format!("{sign}{name}").as_bytes())
                .expect("a rule");
        }
        let text = one.line();
        let read = Users::read(&[&text[..], b"\n"].concat(), "f").expect("it was written here");
        let again = read.get(b"ann").expect("it is there");
        assert_eq!(again.line(), text);
        let (own, _) = one.described();
        let (read, _) = again.described();
        assert_eq!(
            own.commands,
            read.commands,
            "{}",
            String::from_utf8_lossy(&text)
        );
    }
}

#[test]
fn commands_are_told_by_few_rules() {
    assert_eq!(commands(&user("+@all")), "+@all");
    assert_eq!(commands(&user("+@all -@dangerous")), "+@all -@dangerous");
    assert_eq!(commands(&user("+get +set")), "-@all +get +set");
    assert_eq!(
        commands(&user("+config -config|set")),
        "-@all +config -config|set"
    );
    assert_eq!(
        commands(&user("+select|0 +select|1")),
        "-@all +select|0 +select|1"
    );
    assert!(category(b"READ").is_some() && category(b"all").is_none());
}

#[test]
fn a_file_is_read_whole_or_not_at_all() {
    let text = b"user bob on >pw ~a* +@read (+set ~b* &x)\r\n\n  user default off -@all  \n";
    let users = Users::read(text, "f").expect("it is good");
    assert_eq!(users.iter().len(), 2);
    assert!(users.get(b"bob").is_some_and(|bob| bob.admits(b"pw")));
    assert!(!users.default_user().is_on());
    let again = Users::read(&users.text(), "f").expect("it was written here");
    assert_eq!(again.text(), users.text());
    let bad = b"user bob on +nosuch\nfoo\nuser bob on\nuser \nuser x (+get\nuser y foo";
    let errors = Users::read(bad, "f").expect_err("it is bad");
    assert_eq!(errors.len(), 6, "{errors:?}");
    let text =
        "f:1: Error in applying operation '+nosuch': Unknown command or category name in ACL. ";
    assert_eq!(errors[0], text);
    assert!(errors[1].starts_with("f:2 should start with user keyword"));
    let none = Users::read(b"", "f").expect("an empty file");
    assert!(none.default_user().is_unlimited());
}

#[test]
fn rules_are_followed_all_or_none() {
    let users = Users::default();
    let rules = |text: &'static str| text.split(' ').map(str::as_bytes);
    let bad = users
        .with(b"bob", rules("on +get +nosuch"))
        .expect_err("bad");
    let text =
        "ERR Error in ACL SETUSER modifier '+nosuch': Unknown command or category name in ACL";
    assert_eq!(bad.error().as_str(), text);
    let bad = users.with(b"bob", rules("on (+get ~a")).expect_err("bad");
    assert!(bad.error().as_str().ends_with("starting at '(+get'."));
    assert_eq!(users.with(b"b b", rules("on")), Err(SetError::Name));
    let some = users.with(b"bob", rules("on (+get ~a* )")).expect("good");
    let (some, count) = some.without([&b"bob"[..], b"none"].into_iter());
    assert_eq!((count, some.text()), (1, users.text()));
}

#[test]
fn the_same_refusal_is_counted_once() {
    let mut log = Log::default();
    let entry = |object: &str, at| Entry {
        count: 1,
        reason: Reason::Key,
        context: Context::TopLevel,
        object: object.into(),
        user: b"bob".to_vec(),
        at,
        client: String::new(),
    };
    log.note(entry("a", 0), 3);
    log.note(entry("b", 1), 3);
    log.note(entry("a", 2), 3);
    let seen: Vec<_> = log
        .newest(10)
        .map(|one| (one.object.clone(), one.count))
        .collect();
    assert_eq!(seen, [(b"a".to_vec(), 2), (b"b".to_vec(), 1)]);
    log.note(entry("a", 100_000), 3);
    assert_eq!(log.newest(10).len(), 3);
    log.note(entry("c", 100_000), 2);
    assert_eq!(log.newest(10).len(), 2);
    log.clear();
    assert_eq!(log.newest(10).len(), 0);
}

#[test]
fn a_user_is_the_same_until_it_is_deleted() {
    let users = Users::default();
    let set = |users: &Users| {
        users
            .with(b"bob", [&b"on"[..]].into_iter())
            .expect("a rule")
    };
    let get = |users: &Users| users.get(b"bob").expect("it is there").clone();
    let one = set(&users);
    let two = set(&one);
    assert!(get(&two).is_again(&get(&one)));
    let (none, _) = two.without([&b"bob"[..]].into_iter());
    let three = set(&none);
    assert!(!get(&three).is_again(&get(&two)));
    let read = Users::read(&three.text(), "f").expect("it was written here");
    assert!(get(&read.replacing(&three)).is_again(&get(&three)));
    assert!(users.is_open() && !set(&users).get(b"bob").is_some_and(|bob| bob.admits(b"")));
}
