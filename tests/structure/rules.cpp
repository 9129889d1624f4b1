#include "tests/structure/rules.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <optional>
#include <regex>
#include <sstream>
#include <string_view>

namespace evictsim::tests {

namespace {

constexpr std::array<std::string_view, 5> folders = {"traces", "models", "policies", "sim", "analysis"};
constexpr std::size_t top = folders.size();
constexpr std::size_t line_limit = 600;

bool is_under(const std::string& path, std::string_view folder) {
  return path.starts_with(folder) && path.size() > folder.size() && path[folder.size()] == '/';
}

/// Programs sit above all folders, wherever their files lie.
bool is_program(const std::string& path) {
  return is_under(path, "sim/cli") || is_under(path, "traces/capture") || is_under(path, "analysis/calibration");
}

bool is_test(const std::string& path) { return is_under(path, "tests"); }

/// How high a file stands: a file may include files of its own height and below. No value: not in one of our folders.
std::optional<std::size_t> height(const std::string& path) {
  if (is_test(path)) return top + 1;
  if (is_program(path)) return top;
  for (std::size_t i = 0; i < folders.size(); ++i) {
    if (is_under(path, folders[i])) return i;
  }
  return std::nullopt;
}

/// What library code or a whole folder must not contain.
struct Ban {
  std::regex pattern;
  std::string rule;
  bool (*applies)(const std::string& path);
};

const std::vector<Ban>& bans() {
  static const std::vector<Ban> list = {
      {std::regex(R"(#\s*include\s*[<"](hdf5|H5\w+)\.h|\bH5[A-Z]{1,2}[a-z]\w*\s*\(|\bhid_t\b)"),
       "HDF5 belongs in traces/ and analysis/run_file*",
       [](const std::string& path) {
         return !is_test(path) && !is_under(path, "traces") && !path.starts_with("analysis/run_file");
       }},
      {std::regex(R"(#\s*include\s*[<"](cuda|cublas|cudnn|nvml|thrust/|cub/))"), "CUDA belongs in traces/capture/",
       [](const std::string& path) { return !is_test(path) && !is_under(path, "traces/capture"); }},
      {std::regex(R"(#\s*include\s*[<"]CLI/)"), "flags are parsed in programs only",
       [](const std::string& path) { return !is_test(path) && !is_program(path); }},
      {std::regex(R"(\bstd::(cout|cerr|clog)\b|\bfmt::print\b|(^|[^\w])(f?printf|f?puts|putchar|perror)\s*\()"),
       "libraries never print", [](const std::string& path) { return !is_test(path) && !is_program(path); }},
      {std::regex(R"((^|[^\w.>])(std::)?(exit|quick_exit|abort|terminate)\s*\()"), "libraries never exit",
       [](const std::string& path) { return !is_test(path) && !is_program(path); }},
      {std::regex(R"(\b(_exit|_Exit)\s*\()"),
       "libraries never exit; only the child process of traces/isolation.cpp does",
       [](const std::string& path) { return !is_test(path) && !is_program(path) && path != "traces/isolation.cpp"; }},
  };
  return list;
}

/// Breaches by one line of code whose comments are blanked; `bare` has its literals blanked too.
void check_line(const std::string& path, const std::string& line, const std::string& bare,
                std::vector<std::string>& rules) {
  static const std::regex include(R"re(^\s*#\s*include\s*"([^"]+)")re");
  std::smatch match;
  if (std::regex_search(line, match, include)) {
    const std::string target = match[1];
    const auto mine = height(path);
    const auto theirs = height(target);
    if (!theirs) {
      rules.push_back("\"" + target + "\" is not a path from the root; other libraries are included with <>");
    } else if (mine && *theirs > *mine) {
      rules.push_back("includes the higher \"" + target + "\"");
    }
  }
  const bool directive =
      line.find_first_not_of(" \t") != std::string::npos && line[line.find_first_not_of(" \t")] == '#';
  for (const Ban& ban : bans()) {
    if (ban.applies(path) && std::regex_search(directive ? line : bare, ban.pattern)) rules.push_back(ban.rule);
  }
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

}  // namespace

std::string without_comments(const std::string& text, bool keep_strings) {
  std::string result = text;
  enum class In { code, line_comment, block_comment, string, character, raw } in = In::code;
  std::string raw_end;
  const auto blank = [&](std::size_t i) {
    if (result[i] != '\n') result[i] = ' ';
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::string_view rest = std::string_view(text).substr(i);
    switch (in) {
      case In::code:
        if (rest.starts_with("//")) {
          in = In::line_comment;
          blank(i);
        } else if (rest.starts_with("/*")) {
          in = In::block_comment;
          blank(i);
          blank(++i);
        } else if (rest.starts_with("R\"")) {
          const std::size_t open = text.find('(', i);
          if (open == std::string::npos) return result;
          raw_end = ")" + text.substr(i + 2, open - i - 2) + "\"";
          i = open;
          in = In::raw;
        } else if (rest.front() == '"') {
          in = In::string;
        } else if (rest.front() == '\'' && (i == 0 || std::isalnum(static_cast<unsigned char>(text[i - 1])) == 0)) {
          in = In::character;  // a quote after a letter or digit separates digits
        }
        break;
      case In::line_comment:
        if (rest.front() == '\n') in = In::code;
        blank(i);
        break;
      case In::block_comment:
        if (rest.starts_with("*/")) {
          blank(i++);
          in = In::code;
        }
        blank(i);
        break;
      case In::string:
      case In::character:
        if (rest.front() == '\\' && rest.size() > 1) {
          if (!keep_strings) {
            blank(i);
            blank(i + 1);
          }
          ++i;
        } else if (rest.front() == (in == In::string ? '"' : '\'')) {
          in = In::code;
        } else if (!keep_strings) {
          blank(i);
        }
        break;
      case In::raw:
        if (rest.starts_with(raw_end)) {
          i += raw_end.size() - 1;
          in = In::code;
        } else if (!keep_strings) {
          blank(i);
        }
        break;
    }
  }
  return result;
}

std::vector<std::string> check_source(const SourceFile& file) {
  std::vector<std::string> breaches;
  const auto breach = [&](std::size_t line, const std::string& rule) {
    breaches.push_back(file.path + ":" + std::to_string(line) + ": " + rule);
  };
  const std::vector<std::string> code = lines_of(without_comments(file.text, true));
  const std::vector<std::string> bare = lines_of(without_comments(file.text, false));
  for (std::size_t i = 0; i < code.size(); ++i) {
    std::vector<std::string> rules;
    check_line(file.path, code[i], bare[i], rules);
    for (const std::string& rule : rules) breach(i + 1, rule);
  }
  if (code.size() > line_limit) breach(code.size(), "more than " + std::to_string(line_limit) + " lines");
  if (file.path.ends_with(".h") && !file.text.starts_with("#pragma once\n"))
    breach(1, "a header starts with #pragma once");
  if (file.path.ends_with("_test.cpp") && !file.text.starts_with("// ")) {
    breach(1, "a test file starts with one comment line: the question it answers");
  }
  return breaches;
}

std::vector<std::string> check_listed(const std::vector<SourceFile>& sources, const std::vector<SourceFile>& lists) {
  std::vector<std::string> missing;
  for (const SourceFile& source : sources) {
    if (!source.path.ends_with(".cpp")) continue;
    const bool listed = std::any_of(lists.begin(), lists.end(), [&](const SourceFile& list) {
      const std::string folder = list.path.substr(0, list.path.rfind('/') + 1);
      if (folder.empty() || !source.path.starts_with(folder)) return false;
      const std::string name = source.path.substr(folder.size());
      // Whole words only: "max.cpp" is not listed by "argmax.cpp".
      const std::string space = " \t\n()\"";
      for (std::size_t at = list.text.find(name); at != std::string::npos; at = list.text.find(name, at + 1)) {
        const std::size_t end = at + name.size();
        if ((at == 0 || space.find(list.text[at - 1]) != std::string::npos) &&
            (end == list.text.size() || space.find(list.text[end]) != std::string::npos)) {
          return true;
        }
      }
      return false;
    });
    if (!listed) missing.push_back(source.path + ": not listed in a CMakeLists.txt, so it is never built");
  }
  return missing;
}

}  // namespace evictsim::tests
