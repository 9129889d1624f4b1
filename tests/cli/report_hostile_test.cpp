// Does text of a hostile trace reach the data inside a report as text, and nothing of it the page as markup?
#include <zlib.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "analysis/report/page/page.h"
#include "tests/cli/program.h"
#include "tests/support/base64.h"
#include "traces/writer.h"

using namespace evictsim::tests;
using Catch::Matchers::Contains;
using nlohmann::json;

namespace {

constexpr std::size_t most = std::size_t{1} << 20U;

/// Token texts as bytes, and as the report must hold them.
const std::vector<std::pair<std::string, std::string>>& hostile_tokens() {
  static const std::vector<std::pair<std::string, std::string>> tokens = {
      {"</script><script>alert(1)</script>", "</script><script>alert(1)</script>"},
      {"<!--<script>", "<!--<script>"},
      {"<img src=x onerror=alert(2)>", "<img src=x onerror=alert(2)>"},
      {"\u202e\u2066\u200f&lt;\u2028", "\u202e\u2066\u200f&lt;\u2028"},
      {std::string("a\0b", 3), std::string("a\0b", 3)},
      {"\x1b[31m\x7f\r\n", "\x1b[31m\x7f\r\n"},
      {"\xff\xfe", "\ufffd\ufffd"},
      {"\xc0\xaf", "\ufffd\ufffd"},
      {"\xed\xa0\x80\xed\xb0\x80", "\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd"},  // a pair of surrogates
      {"\xc3", "\ufffd"},
      {"]]>\"'`${1}@EVICTSIM_DATA@", "]]>\"'`${1}@EVICTSIM_DATA@"},
      {std::string(most, '<'), std::string(64, '<') + "…[1048576 bytes]"}};
  return tokens;
}

std::string hostile_model() { return "<b>model</b></title><script>alert(3)</script>\u202e@EVICTSIM_TITLE@"; }

/// One layer of random attention.
void write_hostile_trace(const std::filesystem::path& path) {
  evictsim::traces::Header header;
  header.model = hostile_model();
  header.engine = "</script>";
  header.engine_version = "1";
  header.created = "2026-01-01T00:00:00Z";
  header.num_layers = 1;
  header.num_query_heads = header.num_kv_heads = 1;
  header.head_dim = 8;
  header.hidden_size = 8;
  header.vocab_size = 10;
  header.attention_scale = 0.25;
  header.rope_theta = 10000;
  header.layers = {0};
  for (int pair = 0; pair < 4; ++pair) header.inv_freq.push_back(std::pow(10000.0, -pair / 4.0));
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  const auto random = [&](std::size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = normal(generator);
    return values;
  };
  evictsim::traces::Writer writer(path, header);
  evictsim::traces::SequenceInfo info;
  info.prompt_length = 40;
  info.length = 44;
  info.text = "</script>";
  info.token_texts.emplace(44, " word");
  for (std::size_t token = 0; token < hostile_tokens().size(); ++token) {
    (*info.token_texts)[token] = hostile_tokens()[token].first;
  }
  for (std::int32_t row = 0; row < info.length; ++row) info.positions.push_back(row);
  info.spans["evidence"] = {{2, 5}};  // other kinds, and so hostile ones, are refused by the writer
  writer.begin_sequence(info);
  writer.write_channel(evictsim::traces::Channel::token_ids, std::vector<float>(44, 7.0F));
  writer.append_kv(0, random(44 * 8), random(44 * 8));
  writer.append_q(0, info.positions, random(44 * 8));
  writer.end_sequence();
  writer.seal();
}

/// What the page's script finds: the element's text, undone as the page undoes it.
json data_in(const std::string& html, bool& deflated) {
  const std::string opening = R"(<script id="report-data" type="text/plain" data-encoding=")";
  const std::size_t begin = html.find(opening);
  REQUIRE(begin != std::string::npos);
  const std::size_t quote = begin + opening.size(), from = html.find('>', quote) + 1;
  deflated = html.substr(quote, html.find('"', quote) - quote) == "deflate";
  const std::string text = html.substr(from, html.find("</script>", from) - from);
  if (!deflated) return json::parse(text);
  const std::string packed = evictsim::test::base64_decoded(text);
  std::string bytes(64 * most, '\0');
  uLongf size = bytes.size();
  REQUIRE(uncompress(reinterpret_cast<Bytef*>(bytes.data()), &size, reinterpret_cast<const Bytef*>(packed.data()),
                     static_cast<uLong>(packed.size())) == Z_OK);
  bytes.resize(size);
  return json::parse(bytes);
}

std::size_t occurrences(std::string_view text, std::string_view word) {
  std::size_t count = 0;
  for (std::size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) ++count;
  return count;
}

}  // namespace

TEST_CASE("text of a hostile trace is text in the report, and never markup") {
  const std::filesystem::path folder = scratch("report_hostile");
  const std::string trace = (folder / "trace.h5").string();
  write_hostile_trace(trace);
  const std::string_view page = evictsim::analysis::page_template();
  // Few points stay readable in the page, many are compressed.
  for (const char* policies : {"knorm", "all"}) {
    INFO(policies);
    const std::string file = (folder / "run.h5").string(), report = (folder / "report.html").string();
    const Outcome replayed = run(folder, {"replay", trace, "--policy", policies, "--budget", "0.2,0.4,0.6,0.8", "--per",
                                          "layer,head,entry,steps", "-o", file, "--quiet"});
    INFO(replayed.err);
    REQUIRE(replayed.status == 0);
    const Outcome text = run(folder, {"report", file, "--text"});
    REQUIRE(text.status == 0);
    CHECK(text.out.find("\u202e") == std::string::npos);
    const Outcome made = run(folder, {"report", file, "-o", report});
    if (page.empty()) {
      CHECK(made.status == 1);
      continue;
    }
    INFO(made.err);
    REQUIRE(made.status == 0);
    const std::string html = contents(report);
    bool deflated = false;
    const json data = data_in(html, deflated);
    CHECK(deflated == (std::string_view(policies) == "all"));
    const json& tokens = data.at("runs").at(0).at("tokens").at(0);
    REQUIRE(tokens.at("text").size() == 40);
    for (std::size_t token = 0; token < hostile_tokens().size(); ++token) {
      CHECK(tokens.at("text").at(token) == hostile_tokens()[token].second);
    }
    CHECK(tokens.at("text").at(hostile_tokens().size()) == " word");
    CHECK(data.at("runs").at(0).at("model") == hostile_model());

    // Nothing but what the template has: its scripts, one title, and printable text.
    for (const char* word : {"</script", "<script", "<!--", "</title", "<img", "<b>", "]]>"}) {
      INFO(word);
      CHECK(occurrences(html, word) == occurrences(page, word));
    }
    CHECK_THAT(html, Contains("&lt;b&gt;model&lt;/b&gt;&lt;/title&gt;&lt;script&gt;alert(3)"));
    CHECK(occurrences(html, std::string_view("\0", 1)) == 0);
    CHECK(occurrences(html, "\xff") == 0);
    CHECK(occurrences(html, "\x1b") == occurrences(page, "\x1b"));
  }
}
