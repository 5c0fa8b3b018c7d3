//! Templates and what Go's text/template made of them, with Docker's functions and the same data.

use super::*;

fn data() -> Value {
    let json = r#"{
        "Name": "web", "Empty": "", "Zero": 0, "One": 1, "Null": null, "Html": "<a&b>",
        "List": ["a", "b", "c"], "None": [], "Labels": {"a": "1", "b": "2"},
        "Nested": {"Deep": {"Leaf": "green"}}, "Matrix": [[1, 2], [3, 4]]
    }"#;
    serde_json::from_str::<serde_json::Value>(json).unwrap().into()
}

#[test]
fn templates_print_what_go_prints() {
    let mut wrong = Vec::new();
    for (template, expected) in [
        ("plain", "plain"),
        ("{{.Name}}", "web"),
        ("a {{- .Name -}} b", "awebb"),
        ("a {{ .Name }} b", "a web b"),
        ("x  {{- /* gone */ -}}  y", "xy"),
        ("x {{/* gone */}} y", "x  y"),
        ("{{.Missing}}", "<no value>"),
        ("{{.Labels.nothing}}", "<no value>"),
        ("{{.Labels.a}}", "1"),
        ("{{.Nested.Deep.Leaf}}", "green"),
        ("{{$.Name}}", "web"),
        ("{{$x := .Name}}{{$x}}", "web"),
        ("{{$x := 1}}{{$x = 2}}{{$x}}", "2"),
        ("{{$x := 1}}{{if true}}{{$x = 5}}{{end}}{{$x}}", "5"),
        ("{{$x := 1}}{{if true}}{{$x := 5}}{{end}}{{$x}}", "1"),
        ("{{if .Name}}yes{{else}}no{{end}}", "yes"),
        ("{{if .Empty}}yes{{else}}no{{end}}", "no"),
        ("{{if .Zero}}a{{else if .One}}b{{else}}c{{end}}", "b"),
        ("{{if .Zero}}a{{else if .Zero}}b{{else}}c{{end}}", "c"),
        ("{{with .Nested}}{{.Deep.Leaf}}{{end}}", "green"),
        ("{{with .Empty}}x{{else}}none{{end}}", "none"),
        ("{{with $y := .Name}}{{$y}}{{end}}", "web"),
        ("{{range .List}}<{{.}}>{{end}}", "<a><b><c>"),
        ("{{range $i, $v := .List}}{{$i}}={{$v}};{{end}}", "0=a;1=b;2=c;"),
        ("{{range $v := .List}}{{$v}},{{end}}", "a,b,c,"),
        ("{{range .None}}x{{else}}nothing{{end}}", "nothing"),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}} {{end}}", "a=1 b=2 "),
        (r#"{{range .List}}{{if eq . "b"}}{{break}}{{end}}{{.}}{{end}}"#, "a"),
        (r#"{{range .List}}{{if eq . "b"}}{{continue}}{{end}}{{.}}{{end}}"#, "ac"),
        ("{{range .List}}{{$.Name}}{{end}}", "webwebweb"),
        ("{{json .List}}", r#"["a","b","c"]"#),
        (
            "{{json .}}",
            r#"{"Empty":"","Html":"<a&b>","Labels":{"a":"1","b":"2"},"List":["a","b","c"],"Matrix":[[1,2],[3,4]],"Name":"web","Nested":{"Deep":{"Leaf":"green"}},"None":[],"Null":null,"One":1,"Zero":0}"#,
        ),
        ("{{json .Labels}}", r#"{"a":"1","b":"2"}"#),
        ("{{.Labels | json}}", r#"{"a":"1","b":"2"}"#),
        ("{{json .Null}}", "null"),
        ("{{json .Html}}", r#""<a&b>""#),
        (r#"{{join .List ", "}}"#, "a, b, c"),
        (r#"{{join (split "a.b.c" ".") "-"}}"#, "a-b-c"),
        (r#"{{split "a.b" "."}}"#, "[a b]"),
        (r#"{{index (split "a:b:c" ":") 1}}"#, "b"),
        (r#"{{upper .Name}} {{lower "ABC"}} {{title "hello wide world"}}"#, "WEB abc Hello Wide World"),
        (r#"{{.Name | upper | lower | printf "%q"}}"#, r#""web""#),
        ("{{len .List}} {{len .Name}} {{len .Labels}}", "3 3 2"),
        ("{{index .List 1}}", "b"),
        (r#"{{index .Labels "b"}}"#, "2"),
        (r#"{{index .Labels "zz"}}"#, "<no value>"),
        ("{{index .Matrix 1 0}}", "3"),
        ("{{slice .Name 1 3}}", "eb"),
        ("{{slice .Name 2}}", "b"),
        ("{{slice .List 1}}", "[b c]"),
        (r#"{{pad "x" 2 1}}|"#, "  x |"),
        (r#"{{pad "" 2 1}}|"#, "|"),
        (r#"{{truncate "abcdef" 3}}"#, "abc"),
        (r#"{{truncate "ab" 3}}"#, "ab"),
        (r#"{{eq .One 1}} {{eq .Name "web"}} {{eq 1 2 3 1}} {{ne 1 2}}"#, "true true true true"),
        (r#"{{lt 1 2}} {{le 2 2}} {{gt 1 2}} {{ge 2 1}} {{lt "a" "b"}}"#, "true true false true true"),
        (r#"{{and 1 0}} {{and 1 2}} {{or 0 "" "x"}} {{or 0 ""}} {{not 0}}"#, "0 2 x  true"),
        ("{{and .Name .List}}", "[a b c]"),
        ("{{if and (eq .One 1) (not .Empty)}}ok{{end}}", "ok"),
        (r#"{{print 1 2 "a" "b" 3 4}}"#, "1 2ab3 4"),
        (r#"{{println "a" 1 true}}"#, "a 1 true\n"),
        ("{{println .List}}", "[a b c]\n"),
        (r#"{{printf "%s-%d-%v" .Name .One .List}}"#, "web-1-[a b c]"),
        (r#"{{printf "%5d|%-5d|%05d|%+d|%x|%X|%o|%b" 42 42 42 42 255 255 8 5}}"#, "   42|42   |00042|+42|ff|FF|10|101"),
        (r#"{{printf "%8s|%-8s|%.2s|%q" "abc" "abc" "abc" "a\"b\n"}}"#, r#"     abc|abc     |ab|"a\"b\n""#),
        (r#"{{printf "%t %v %%" true false}}"#, "true false %"),
        (r#"{{printf "%.2f %6.1f %e %g" 3.14159 2.5 12345.678 0.00001234}}"#, "3.14    2.5 1.234568e+04 1.234e-05"),
        (r#"{{printf "%d" "text"}}"#, "%!d(string=text)"),
        (r#"{{printf "%s" 5}}"#, "%!s(int=5)"),
        (r#"{{printf "%d %d" 1}}"#, "1 %!d(MISSING)"),
        (r#"{{printf "%d" 1 2}}"#, "1%!(EXTRA int=2)"),
        (r#"{{printf "%!"}}"#, "%!!(MISSING)"),
        (r#"{{printf "%"}}"#, "%!(NOVERB)"),
        (r#"{{printf "%*d" 5 42}}"#, "   42"),
        (r#"{{printf "%x" "hi"}}"#, "6869"),
        (r#"{{printf "%c%U" 65 9731}}"#, "AU+2603"),
        (r#"{{printf "%T %T %T" 1 "a" true}}"#, "int string bool"),
        (r#"{{printf "%v %v" .Labels .Nested}}"#, "map[a:1 b:2] map[Deep:map[Leaf:green]]"),
        (r#"{{printf "%s" .List}}"#, "[a b c]"),
        (r#"{{printf "%#x %#o %#v" 255 8 "q"}}"#, r#"0xff 010 "q""#),
        (r#"{{printf "%-10s|" "é"}}"#, "é         |"),
        (r#"{{printf "%08.3f" 3.14159}}"#, "0003.142"),
        (r#"{{printf "%+q" "x"}}"#, r#""x""#),
        (
            "{{1.5}} {{1e6}} {{0x10}} {{'a'}} {{-3}} {{1_000}} {{1e21}} {{100000.0}} {{0.1}}",
            "1.5 1e+06 16 97 -3 1000 1e+21 100000 0.1",
        ),
        (r#"{{"quoted \u00e9 \x41 \t|"}} {{`raw \n`}}"#, "quoted é A \t| raw \\n"),
        ("{{true}} {{false}}", "true false"),
        ("{{.List}} {{.Labels}} {{.Null}}", "[a b c] map[a:1 b:2] <no value>"),
        (
            r#"{{html "<a href=\"x\">&'"}} {{urlquery "a b&c/ü"}}"#,
            "&lt;a href=&#34;x&#34;&gt;&amp;&#39; a+b%26c%2F%C3%BC",
        ),
        ("{{(index .Matrix 0) | len}}", "2"),
        ("{{(.Nested).Deep.Leaf}}", "green"),
        ("{{$n := .Nested}}{{$n.Deep.Leaf}}", "green"),
        ("{{range $i, $r := .Matrix}}{{range $j, $c := $r}}{{$i}}{{$j}}{{$c}} {{end}}{{end}}", "001 012 103 114 "),
        ("{{if not (or .Zero .Empty)}}none{{end}}", "none"),
        (r#"{{len "ü"}}"#, "2"),
        ("{{with .Zero}}a{{else}}b{{end}}", "b"),
        (r#"{{"a" | printf "%s%s" "b"}}"#, "ba"),
        (r#"{{printf "%v" 1.0}} {{printf "%v" 2.50}} {{print 1e100}}"#, "1 2.5 1e+100"),
        (r#"{{printf "%6.2f|%-8.1f|%+.1f" 1.005 2.25 3.0}}"#, "  1.00|2.2     |+3.0"),
        (r#"{{printf "%g %G" 100000000000000000000000.0 0.0000001}}"#, "1e+23 1E-07"),
        ("{{print nil}}", "<nil>"),
        ("{{eq .Null nil}}", "true"),
        (r#"{{ .Name }}{{ "-" }}{{ .One }}"#, "web-1"),
        ("{{- .Name}}", "web"),
        ("   {{- .Name -}}   ", "web"),
        (r#"{{printf "%3c|%-3c|" 65 66}}"#, "  A|B  |"),
        (r#"{{printf "%q" 65}}"#, "'A'"),
        (r#"{{printf "% d" 5}}"#, " 5"),
        (r#"{{printf "%.3d" 5}}"#, "005"),
        (r#"{{printf "%s %s" .Name}}"#, "web %!s(MISSING)"),
        (r#"{{title "o'neil foo_bar a-b"}}"#, "O'Neil Foo_bar A-B"),
        (r#"{{join .None ","}}"#, ""),
        ("{{.Nested.Missing.More}}", "<no value>"),
    ] {
        let said = Template::parse(template).and_then(|template| template.render(&data()));
        if said != Ok(expected.to_owned()) {
            wrong.push(format!("{template}: {said:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_go_refuses_is_refused_with_its_place() {
    let mut wrong = Vec::new();
    for (template, expected) in [
        ("{{eq .Name 1}}", "1:3: eq: cannot compare string with int"),
        (r#"{{lt 1 "a"}}"#, "1:3: lt: cannot compare int with string"),
        ("{{index .List 9}}", "1:3: index: 9 is out of range: there are 3"),
        ("{{slice .Name 9}}", "1:3: slice: 9 is out of range: the length is 3"),
        ("{{nosuch .Name}}", r#"1:3: function "nosuch" is not known"#),
        ("{{.Name", "1:3: the action has no end: }} is missing"),
        ("{{end}}", "1:1: end without a block to which it belongs"),
        ("{{if .Name}}x", "1:1: if without its end"),
        ("{{else}}", "1:1: else without a block to which it belongs"),
        ("{{.Name .List}}", "1:9: what stands in front is not a function and takes no arguments"),
        (r#"{{"open}}"#, "1:3: the string has no end"),
        ("{{$nope}}", "1:3: variable $nope is not declared"),
        ("{{upper 1}}", "1:3: upper: cannot take int"),
        (r#"{{upper "a" "b"}}"#, "1:3: upper: cannot take string, string"),
        ("{{range 5.5}}x{{end}}", "1:9: range over float64"),
        ("{{len 5}}", "1:3: len: int has no length"),
        ("{{break}}", "1:1: break outside of a range"),
        ("{{/* open", "1:3: the comment has no end"),
        ("{{.Name | 5}}", "1:11: a value is piped into what is not a function"),
        ("{{if}}x{{end}}", "1:1: a value or a function is missing"),
        ("{{(1}}", "1:3: ( without its )"),
        ("{{1)}}", "1:4: unexpected )"),
        ("{{}}", "1:1: a value or a function is missing"),
        ("{{nil}}", "1:3: nil stands alone"),
        ("{{.Name.Foo}}", "1:3: there is no .Foo in string"),
        ("{{or}}", "1:3: or has nothing to look at"),
        ("{{not}}", "1:3: not: cannot take nothing"),
        ("{{eq 1}}", "1:3: eq: cannot take int"),
        (
            "a\n{{if .Name}}{{/* two lines */}}
ü{{.Name.Foo}}{{end}}",
            "3:4: there is no .Foo in string",
        ),
        ("{{define \"x\"}}{{end}}", "1:1: define is not supported"),
    ] {
        let said = Template::parse(template).and_then(|template| template.render(&data()));
        if said.as_ref().err().map(ToString::to_string) != Some(format!("format: {expected}")) {
            wrong.push(format!("{template}: {said:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nesting_has_a_bound() {
    let nested = |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
    for (open, close) in [("{{if 1}}", "{{end}}"), ("{{range 1}}", "{{end}}"), ("{{with 1}}", "{{end}}")] {
        assert!(Template::parse(&nested(open, close, 60)).is_ok());
        let said = Template::parse(&nested(open, close, 50_000)).unwrap_err();
        assert!(said.to_string().ends_with("nested deeper than 64"), "{said}");
    }
    let said = Template::parse(&format!("{{{{{}}}}}", nested("(", ")", 100_000))).unwrap_err();
    assert_eq!(said.to_string(), "format: 1:67: nested deeper than 64");
    let said = Template::parse(&nested("{{if 0}}{{else if 1}}", "{{end}}", 100)).unwrap_err();
    assert!(said.to_string().ends_with("nested deeper than 64"), "{said}");
    assert!(Template::parse(&" ".repeat(2 << 20)).is_err());
    assert_eq!(Template::parse("{{printf \"%999999999d\" 1}}").unwrap().render(&data()).unwrap().len(), 100_000);
}

#[test]
fn a_field_that_a_record_lacks_is_an_error_and_its_case_is_not() {
    let record = Value::record([("Id", "abc".into()), ("Labels", Value::Null("map[]")), ("Env", Value::Null("[]"))]);
    let render = |template: &str| Template::parse(template).and_then(|template| template.render(&record));
    assert_eq!(render("{{.ID}} {{.Labels.x}} {{.Labels}} {{.Env}} {{len .Env}}").unwrap(), "abc <no value> map[] [] 0");
    assert_eq!(render("{{.Nmae}}").unwrap_err().to_string(), "format: 1:3: there is no .Nmae in object");
    assert_eq!(render("{{json .}}").unwrap(), r#"{"Id":"abc","Labels":null,"Env":null}"#);
    // What the shell leaves of \t and \n.
    assert_eq!(render(r#"{{.Id}}\t{{"\t"}}\n"#).unwrap(), "abc\t\t\n");
}
