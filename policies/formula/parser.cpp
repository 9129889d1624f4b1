#include "policies/formula/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/spirit/home/x3.hpp>
#include <charconv>
#include <utility>

namespace boost::spirit::x3 {

/// A rule with an action is expected by the rule's name, not by the type of the two.
template <typename Subject, typename Action>
struct get_info<action<Subject, Action>> {
  using result_type = std::string;
  result_type operator()(const action<Subject, Action>& parser) const { return what(parser.subject); }
};

}  // namespace boost::spirit::x3

namespace evictsim::policies::formula {
namespace {

// Far more than any formula needs; they keep hostile text off the stack's end.
constexpr std::size_t longest_text = 1000;
constexpr int deepest_nesting = 32;

namespace x3 = boost::spirit::x3;

struct TextTag;  // the text parsed, for places

/// Offset of the start of what the parser of an action took, which must be raw[...].
template <typename Context>
std::size_t place_of(const Context& context) {
  return static_cast<std::size_t>(x3::_attr(context).begin() - x3::get<TextTag>(context).get().begin());
}

template <typename Context>
std::string taken(const Context& context) {
  return {x3::_attr(context).begin(), x3::_attr(context).end()};
}

const auto take = [](const auto& context) { x3::_val(context) = std::move(x3::_attr(context)); };

const auto start_operation = [](const auto& context) {
  Expression operation{.kind = Expression::Kind::operation, .place = place_of(context), .word = taken(context)};
  operation.arguments.push_back(std::move(x3::_val(context)));
  x3::_val(context) = std::move(operation);
};

const auto add_argument = [](const auto& context) {
  x3::_val(context).arguments.push_back(std::move(x3::_attr(context)));
};

/// Any number of signs: only their parity matters.
const auto take_signs = [](const auto& context) {
  const std::string signs = taken(context);
  if (std::count(signs.begin(), signs.end(), '-') % 2 == 0) return;
  x3::_val(context) = {.kind = Expression::Kind::operation, .place = place_of(context), .word = "-"};
};

const auto take_signed = [](const auto& context) {
  if (x3::_val(context).kind == Expression::Kind::operation) {
    add_argument(context);
  } else {
    take(context);
  }
};

const auto take_number = [](const auto& context) {
  const std::string digits = taken(context);
  Expression number{.kind = Expression::Kind::number, .place = place_of(context), .word = digits};
  const auto [end, failure] = std::from_chars(digits.data(), digits.data() + digits.size(), number.number);
  if (failure != std::errc() || end != digits.data() + digits.size()) {
    fail(x3::get<TextTag>(context).get(), number.place, "a number out of range");
  }
  x3::_val(context) = std::move(number);
};

const auto take_name = [](const auto& context) {
  x3::_val(context) = {.kind = Expression::Kind::name, .place = place_of(context), .word = taken(context)};
};

const auto take_parenthesis = [](const auto& context) { x3::_val(context).kind = Expression::Kind::call; };

const auto add_option = [](const auto& context) { x3::_val(context).options.push_back(std::move(x3::_attr(context))); };

const auto take_option_name = [](const auto& context) {
  x3::_val(context).name = taken(context);
  x3::_val(context).place = place_of(context);
};

const auto take_option_value = [](const auto& context) { x3::_val(context).value = taken(context); };

// The name of a rule is what an error says was expected.
const x3::rule<struct ExpressionRule, Expression> expression = "a number, feature, function or '('";
const x3::rule<struct TermRule, Expression> term = "a number, feature, function or '('";
const x3::rule<struct SignedRule, Expression> signed_power = "a number, feature, function or '('";
const x3::rule<struct PowerRule, Expression> power = "a number, feature, function or '('";
const x3::rule<struct PrimaryRule, Expression> primary = "a number, feature, function or '('";
const x3::rule<struct CallRule, Expression> call = "a feature or function";
const x3::rule<struct OptionRule, Option> option = "name=value";
const x3::rule<struct OptionValueRule, std::string> option_value = "a word or number";
const x3::rule<struct ClosingRule> closing = "',' or ')'";

const auto digits = +x3::char_("0-9");
const auto number =
    x3::raw[x3::lexeme[((digits >> -(x3::char_('.') >> *x3::char_("0-9"))) | (x3::char_('.') >> digits)) >>
                       -(x3::char_("eE") >> -x3::char_("+-") >> digits)]];
const auto name = x3::raw[x3::lexeme[x3::char_("a-zA-Z_") >> *x3::char_("a-zA-Z0-9_")]];
const auto blanks = x3::char_(" \t\r\n");

const auto expression_def = term[take] >> *(x3::raw[x3::char_("-+")][start_operation] > term[add_argument]);
const auto term_def = signed_power[take] >> *(x3::raw[x3::char_("*/")][start_operation] > signed_power[add_argument]);
const auto signed_power_def = x3::raw[*x3::char_("-+")][take_signs] > power[take_signed];
const auto power_def = primary[take] >> -(x3::raw[x3::char_('^')][start_operation] > signed_power[add_argument]);
const auto primary_def = number[take_number] | call[take] | ('(' > expression[take] > ')');
const auto call_def = name[take_name] >>
                      -(x3::lit('(')[take_parenthesis] >
                        (x3::lit(')') | ((option[add_option] | expression[add_argument]) % ',' > closing)));
const auto option_def = (name[take_option_name] >> '=') > option_value[take_option_value];
const auto option_value_def = x3::raw[x3::lexeme[+x3::char_("-+.a-zA-Z0-9_")]];
const auto closing_def = x3::lit(')');

BOOST_SPIRIT_DEFINE(expression, term, signed_power, power, primary, call, option, option_value, closing)

void refuse_excess(std::string_view text) {
  if (text.size() > longest_text) {
    throw Error(ErrorCode::invalid_argument, fmt::format("a formula has at most {} characters", longest_text),
                {.parameter = "formula", .value = fmt::format("{}...", text.substr(0, 40))});
  }
  int depth = 0;
  for (std::size_t place = 0; place < text.size(); ++place) {
    if (text[place] == '(' && ++depth > deepest_nesting) fail(text, place, "nested too deep");
    if (text[place] == ')') --depth;
  }
}

}  // namespace

Expression parse(std::string_view text) {
  refuse_excess(text);
  Expression result;
  const auto skip = [&](std::string_view::const_iterator at) {
    return std::find_if(at, text.end(), [](char c) { return c != ' ' && c != '\t' && c != '\r' && c != '\n'; });
  };
  auto at = text.begin();
  try {
    x3::phrase_parse(at, text.end(), x3::with<TextTag>(std::cref(text))[expression], blanks, result);
  } catch (const x3::expectation_failure<std::string_view::const_iterator>& failure) {
    const auto place = static_cast<std::size_t>(skip(failure.where()) - text.begin());
    fail(text, place, failure.which() + " expected");
  }
  at = skip(at);
  if (at != text.end()) {
    fail(text, static_cast<std::size_t>(at - text.begin()), fmt::format("'{}' does not belong here", *at));
  }
  return result;
}

FormulaError::FormulaError(ErrorCode code, std::string_view text, std::size_t place, const std::string& what)
    : Error(code, fmt::format("character {}: {}", place + 1, what),
            {.parameter = "formula", .value = std::string(text)}) {
  // One column per character: bytes that continue a UTF-8 character take none.
  std::size_t column = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (i < place && (byte & 0xc0U) != 0x80U) ++column;
    excerpt_ += byte < 0x20 || byte == 0x7f ? ' ' : text[i];
  }
  excerpt_ += "\n" + std::string(column, ' ') + "^";
}

void fail(std::string_view text, std::size_t place, const std::string& what, ErrorCode code) {
  throw FormulaError(code, text, place, what);
}

}  // namespace evictsim::policies::formula
