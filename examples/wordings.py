"""The stories of examples/make_problems.py: for each family, (statement, the numbers that are
realistic in it).

{a} and {b} are two people; {a_he}, {a_his}, {a_him} (or {a_He} ...) their pronouns. Counted things
start at 2, so that a plural is always right.
"""

from __future__ import annotations

Wording = tuple[str, dict[str, range]]


def up(start: int, stop: int, step: int = 1) -> range:
    """start, start + step, ... up to and with stop."""
    return range(start, stop + 1, step)


WORDINGS: dict[str, list[Wording]] = {
    "change": [
        (
            "{a} buys {n} notebooks at ${price} each and a pencil case for ${other}. {a_He} pays "
            "with a ${paid} note. How much change does {a_he} get?",
            {"n": up(2, 6), "price": up(2, 5), "other": up(3, 9), "paid": up(20, 50, 30)},
        ),
        (
            "At the bakery {a} asks for {n} loaves of bread, which cost {price} euros apiece, and "
            "a cake for {other} euros. How many euros does {a_he} get back from {paid} euros?",
            {"n": up(2, 4), "price": up(3, 5), "other": up(12, 19), "paid": up(50, 50)},
        ),
        (
            "A ticket for the funfair costs ${price}. {a} takes {b} and a few friends along and "
            "buys {n} tickets, plus one big bag of popcorn for ${other}. If {a_he} hands over "
            "${paid}, how many dollars does {a_he} get back?",
            {"n": up(4, 8), "price": up(6, 11), "other": up(5, 9), "paid": up(50, 100, 50)},
        ),
        (
            "{a} has {paid} pounds for the garden. {a_He} takes home {n} rose bushes at {price} "
            "pounds each and one watering can at {other} pounds. How many pounds does {a_he} have "
            "left?",
            {"n": up(3, 6), "price": up(7, 12), "other": up(11, 18), "paid": up(60, 100, 20)},
        ),
        (
            "A canteen meal is ${price} and a bottle of juice is ${other}. {a} pays for {n} meals "
            "and a single bottle of juice with ${paid}. What is the change in dollars?",
            {"n": up(2, 4), "price": up(7, 10), "other": up(2, 4), "paid": up(20, 50, 10)},
        ),
    ],
    "distance": [
        (
            "{a} drives at {speed} km per hour for {hours} hours on the motorway, then at "
            "{speed2} km per hour for {hours2} hours on country roads. How many kilometres does "
            "{a_he} drive altogether?",
            {
                "speed": up(90, 120, 10),
                "hours": up(2, 4),
                "speed2": up(50, 80, 10),
                "hours2": up(2, 3),
            },
        ),
        (
            "A cyclist rides for {hours} hours at {speed} km/h before lunch and for {hours2} "
            "hours at {speed2} km/h after it. What distance, in kilometres, does the cyclist "
            "cover in the whole day?",
            {"speed": up(18, 26), "hours": up(2, 4), "speed2": up(14, 22), "hours2": up(2, 4)},
        ),
        (
            "On the first day of the crossing a ferry sails {hours} hours at a steady {speed} "
            "miles per hour. On the second day the sea is rough, so it sails {hours2} hours at "
            "{speed2} miles per hour. How many miles is that in total?",
            {
                "speed": up(20, 30, 2),
                "hours": up(6, 10),
                "speed2": up(10, 16, 2),
                "hours2": up(5, 9),
            },
        ),
        (
            "{a} walks {speed} metres a minute for {hours} minutes, then jogs {speed2} metres a "
            "minute for {hours2} minutes. How many metres has {a_he} gone?",
            {
                "speed": up(70, 90, 5),
                "hours": up(10, 20, 5),
                "speed2": up(130, 160, 10),
                "hours2": up(10, 30, 5),
            },
        ),
        (
            "A drone flies out over a lake for {hours} seconds at {speed} metres per second and "
            "photographs {a}'s boat. It flies back by a longer way: {hours2} seconds at {speed2} "
            "metres per second. How long was its flight in metres?",
            {
                "speed": up(9, 15),
                "hours": up(20, 40, 5),
                "speed2": up(6, 12),
                "hours2": up(45, 70, 5),
            },
        ),
    ],
    "sharing": [
        (
            "{a} bakes {things} biscuits and eats {eaten} of them while they are warm. {a_He} "
            "shares the rest equally among {groups} children, as many as possible each. How many "
            "biscuits are left over?",
            {"things": up(30, 60), "groups": up(5, 9), "eaten": up(2, 6)},
        ),
        (
            "A teacher has {things} coloured pencils, but {eaten} of them are broken. The good "
            "ones go into boxes of {groups}, and only full boxes are put away. How many good "
            "pencils remain outside the boxes?",
            {"things": up(80, 150), "groups": up(8, 12), "eaten": up(4, 15)},
        ),
        (
            "Out of {things} eggs collected on {a}'s farm, {eaten} are cracked. The others are "
            "packed in cartons of {groups} eggs. After every carton that can be filled is filled, "
            "how many unbroken eggs are left?",
            {"things": up(60, 140), "groups": up(6, 12, 2), "eaten": up(3, 9)},
        ),
        (
            "{a} picks {things} tulips and gives {eaten} to a neighbour. With the others {a_he} "
            "ties bunches of {groups} until there are too few for another bunch. How many tulips "
            "are not in a bunch?",
            {"things": up(40, 90), "groups": up(7, 11), "eaten": up(5, 12)},
        ),
        (
            "There are {things} players at a tournament. {eaten} of them go home early, and the "
            "rest form teams of {groups}. How many players cannot be placed in a full team?",
            {"things": up(50, 100), "groups": up(4, 11), "eaten": up(3, 9)},
        ),
    ],
    "ages": [
        (
            "{a} is {gap} years older than {b}. In {years} years their ages will add up to "
            "{total}. How old is {b} now?",
            {"gap": up(2, 9), "years": up(2, 8), "total": up(30, 60)},
        ),
        (
            "When {b} was born, {b_his} mother was {gap} years old. {years} years from now, the "
            "two of them will be {total} years old together. What is {b}'s age today?",
            {"gap": up(22, 34), "years": up(2, 6), "total": up(50, 80)},
        ),
        (
            "Two oak trees stand in the park. One was planted {gap} years before the other. In "
            "{years} years the sum of their ages will be {total} years. How many years old is the "
            "younger oak now?",
            {"gap": up(10, 40, 5), "years": up(5, 10), "total": up(120, 200, 5)},
        ),
        (
            "The zoo has two tortoises, and the old one is {gap} years ahead of the young one. "
            'The keeper says: "In {years} years they will have lived {total} years between them." '
            "How old is the young tortoise now?",
            {"gap": up(12, 30), "years": up(3, 9), "total": up(90, 140)},
        ),
        (
            "{a}'s grandfather is {gap} years older than {a}. Their ages will total {total} in "
            "{years} years. How old is {a} at the moment?",
            {"gap": up(48, 60), "years": up(2, 7), "total": up(80, 110)},
        ),
    ],
    "discount": [
        (
            "A winter coat costs ${price}. In the sale it is {percent}% cheaper, and {a} also has "
            "a voucher worth ${extra}. How many dollars does {a_he} pay for the coat?",
            {"price": up(80, 200, 10), "percent": up(10, 50, 10), "extra": up(5, 15, 5)},
        ),
        (
            "A bicycle shop takes {percent} percent off every bicycle in October. {a} chooses one "
            "marked {price} euros and gets another {extra} euros off for {a_his} old bicycle. "
            "What does {a_he} pay, in euros?",
            {"price": up(300, 600, 50), "percent": up(10, 30, 10), "extra": up(20, 60, 10)},
        ),
        (
            "The price of a pair of headphones was {price} dollars. It was reduced by {percent}%, "
            "and members get {extra} dollars off the reduced price. What do the headphones cost a "
            "member?",
            {"price": up(40, 120, 20), "percent": up(15, 30, 5), "extra": up(3, 9)},
        ),
        (
            "A hotel room is normally {price} pounds a night. Booking early saves {percent}% of "
            "that, and a coupon takes {extra} pounds off what is left. How many pounds does {a} "
            "pay for a night with both?",
            {"price": up(80, 160, 20), "percent": up(10, 25, 5), "extra": up(5, 20, 5)},
        ),
        (
            "{a} orders a tent listed at ${price}. The shop gives {percent}% off the list price "
            "and then refunds ${extra} because the bag is torn. How much has {a_he} paid in the "
            "end?",
            {"price": up(120, 260, 20), "percent": up(5, 40, 5), "extra": up(6, 14)},
        ),
    ],
    "work": [
        (
            "In a bakery {workers} bakers make {made} loaves in {hours} hours. At the same pace, "
            "how many loaves do {crew} bakers make in {time} hours?",
            {
                "workers": up(2, 5),
                "made": up(60, 240, 10),
                "hours": up(2, 5),
                "crew": up(3, 8),
                "time": up(2, 6),
            },
        ),
        (
            "{workers} identical printers print {made} pages in {hours} minutes. How many pages "
            "would {crew} of these printers print in {time} minutes?",
            {
                "workers": up(2, 4),
                "made": up(80, 300, 20),
                "hours": up(2, 5),
                "crew": up(3, 7),
                "time": up(3, 10),
            },
        ),
        (
            "A crew of {workers} gardeners plants {made} trees in {hours} days. If everyone works "
            "equally fast, how many trees can a crew of {crew} plant in {time} days?",
            {
                "workers": up(3, 6),
                "made": up(90, 360, 30),
                "hours": up(2, 5),
                "crew": up(2, 9),
                "time": up(2, 7),
            },
        ),
        (
            "{a} watches {workers} machines fill {made} bottles in {hours} minutes. {a_He} wants "
            "to know how many bottles {crew} machines of the same kind fill in {time} minutes. "
            "What is the answer?",
            {
                "workers": up(2, 5),
                "made": up(120, 400, 20),
                "hours": up(2, 4),
                "crew": up(3, 8),
                "time": up(5, 10),
            },
        ),
        (
            "During the harvest {workers} pickers fill {made} crates in {hours} hours. Tomorrow "
            "{crew} pickers will come for {time} hours. How many crates should the farmer have "
            "ready if the pace stays the same?",
            {
                "workers": up(3, 8),
                "made": up(48, 240, 12),
                "hours": up(2, 6),
                "crew": up(4, 12),
                "time": up(4, 8),
            },
        ),
    ],
    "mixture": [
        (
            "A shop mixes {a_kg} kg of peanuts at ${cheap} a kilogram with {b_kg} kg of cashews "
            "at ${dear} a kilogram. What should one kilogram of the mixture cost, in dollars?",
            {"a_kg": up(2, 6), "cheap": up(4, 8), "b_kg": up(2, 6), "dear": up(12, 20)},
        ),
        (
            "{a} pours {a_kg} litres of a drink with {cheap}% fruit juice into {b_kg} litres of a "
            "drink with {dear}% fruit juice. What percentage of the blend is fruit juice?",
            {"a_kg": up(2, 6), "cheap": up(10, 30, 5), "b_kg": up(2, 6), "dear": up(40, 80, 5)},
        ),
        (
            "For a bath, {a_kg} litres of water at {cheap} degrees are mixed with {b_kg} litres "
            "of water at {dear} degrees. How many degrees warm is the bath, if no heat is lost?",
            {
                "a_kg": up(20, 60, 10),
                "cheap": up(12, 20),
                "b_kg": up(20, 60, 10),
                "dear": up(50, 65),
            },
        ),
        (
            "A café blends {a_kg} sacks of coffee worth {cheap} euros each with {b_kg} sacks "
            "worth {dear} euros each. How many euros is one sack of the blend worth?",
            {"a_kg": up(3, 9), "cheap": up(60, 90, 5), "b_kg": up(3, 9), "dear": up(100, 140, 5)},
        ),
        (
            "{a} mixes {a_kg} cups of tea that contain {cheap} grams of sugar per cup with {b_kg} "
            "cups that contain {dear} grams per cup. How many grams of sugar are in one cup of "
            "the mixture?",
            {"a_kg": up(2, 8), "cheap": up(2, 6), "b_kg": up(2, 8), "dear": up(9, 18)},
        ),
    ],
    "perimeter": [
        (
            "A rectangular vegetable patch is {long} metres long and {short} metres wide. {a} "
            "puts a fence around it but leaves a gate of {gap} metres open. How many metres of "
            "fence does {a_he} need?",
            {"long": up(12, 30), "short": up(6, 18), "gap": up(2, 3)},
        ),
        (
            "{a} sticks a strip of lights along all four edges of a window that is {long} cm high "
            "and {short} cm wide, except for {gap} cm where the cable comes in. How long is the "
            "strip, in centimetres?",
            {"long": up(100, 180, 10), "short": up(60, 120, 10), "gap": up(5, 15, 5)},
        ),
        (
            "A carpenter lays skirting board along the walls of a room that measures {long} feet "
            "by {short} feet. The doorway is {gap} feet wide and gets none. How many feet of "
            "board are needed?",
            {"long": up(13, 24), "short": up(9, 16), "gap": up(3, 4)},
        ),
        (
            "A hedge runs round a rectangular garden with sides of {long} m and {short} m. Two "
            "openings, {gap} m of the boundary in all, have no hedge. How many metres long is the "
            "hedge?",
            {"long": up(25, 60), "short": up(15, 40), "gap": up(3, 8)},
        ),
        (
            "A farmer strings one rope around a rectangular field that is {long} paces by {short} "
            "paces. A pond covers {gap} paces of the edge, where no rope is needed. How many "
            "paces long must the rope be?",
            {"long": up(80, 150, 5), "short": up(40, 90, 5), "gap": up(10, 25)},
        ),
    ],
    "area": [
        (
            "A lawn measures {long} metres by {short} metres. In the middle is a square flower "
            "bed with sides of {hole} metres. How many square metres of grass are there?",
            {"long": up(12, 25), "short": up(8, 15), "hole": up(2, 5)},
        ),
        (
            "{a} paints a wall that is {long} feet long and {short} feet high. A square window, "
            "{hole} feet on each side, is not painted. How many square feet does {a_he} paint?",
            {"long": up(12, 20), "short": up(8, 10), "hole": up(2, 4)},
        ),
        (
            "From a rectangular sheet of card, {long} cm by {short} cm, {a} cuts out a square of "
            "side {hole} cm. What area is left, in square centimetres?",
            {"long": up(20, 40, 5), "short": up(12, 20), "hole": up(4, 9)},
        ),
        (
            "A courtyard of {long} m by {short} m is to be paved, all but a square pool whose "
            "sides are {hole} m. Find the area to be paved in square metres.",
            {"long": up(15, 30), "short": up(10, 20), "hole": up(3, 6)},
        ),
        (
            "A blanket is {long} squares long and {short} squares wide. {b} unpicks a block of "
            "{hole} by {hole} squares that the moths have eaten. How many squares of the blanket "
            "remain?",
            {"long": up(14, 24), "short": up(10, 16), "hole": up(3, 6)},
        ),
    ],
    "sequence": [
        (
            "The first row of a theatre has {first} seats, and each row behind it has {step} "
            "seats more than the one in front. How many seats are in row {n}?",
            {"first": up(12, 24), "step": up(2, 4), "n": up(6, 15)},
        ),
        (
            "{a} does {first} push-ups on Day 1 and adds {step} every day. How many push-ups does "
            "{a_he} do on Day {n}?",
            {"first": up(5, 15), "step": up(2, 5), "n": up(7, 20)},
        ),
        (
            "A pattern of matchsticks starts with {first} matches in Figure 1. Every next figure "
            "uses {step} matches more. How many matches does Figure {n} use?",
            {"first": up(3, 7), "step": up(2, 6), "n": up(8, 25)},
        ),
        (
            "A young tree was {first} cm tall when {a} began to measure it, which {a_he} counts "
            "as week 1. It grows {step} cm a week. How tall is it, in centimetres, in week {n}?",
            {"first": up(20, 50), "step": up(2, 5), "n": up(6, 16)},
        ),
        (
            "House numbers on one side of a street go up by {step} from door to door, and the "
            "first door is number {first}. What is the number of door {n}?",
            {"first": up(1, 9), "step": up(2, 4, 2), "n": up(11, 24)},
        ),
    ],
    "equation": [
        (
            "{a} thinks of a number, multiplies it by {times} and adds {plus}. The result is "
            "{result}. What number did {a_he} think of?",
            {"times": up(3, 9), "plus": up(4, 20), "result": up(40, 120)},
        ),
        (
            "A taxi charges ${plus} to start and ${times} for every mile. {a}'s ride costs "
            "${result}. How many miles was it?",
            {"times": up(2, 4), "plus": up(3, 6), "result": up(20, 50)},
        ),
        (
            "A plumber asks {plus} euros for coming and {times} euros for each hour of work. The "
            "bill is {result} euros. How many hours did the plumber work?",
            {"times": up(40, 60, 5), "plus": up(30, 50, 5), "result": up(150, 400, 5)},
        ),
        (
            "The museum charges a school {plus} pounds for a guide plus {times} pounds per pupil. "
            "{a}'s class pays {result} pounds in total. How many pupils went?",
            {"times": up(4, 7), "plus": up(25, 45, 5), "result": up(120, 220)},
        ),
        (
            "An empty crate weighs {plus} kg. Filled with identical melons of {times} kg each, it "
            "weighs {result} kg. How many melons are in the crate?",
            {"times": up(2, 4), "plus": up(3, 8), "result": up(25, 60)},
        ),
    ],
    "saving": [
        (
            "{a} wants a guitar that costs ${goal}. {a_He} already has ${start} and puts ${week} "
            "aside every week. After how many weeks can {a_he} buy it?",
            {"goal": up(150, 300, 10), "start": up(20, 80, 5), "week": up(8, 20)},
        ),
        (
            "A rainwater tank holds {goal} litres and has {start} litres in it. A pump adds "
            "{week} litres a minute. How many minutes does it take until the tank is full?",
            {"goal": up(400, 900, 50), "start": up(50, 200, 10), "week": up(15, 40, 5)},
        ),
        (
            "{a}'s book has {goal} pages. {a_He} has read {start} of them and reads {week} pages "
            "every evening from now on. How many evenings will {a_he} need to finish it?",
            {"goal": up(220, 420, 10), "start": up(30, 90), "week": up(12, 30)},
        ),
        (
            "The school collects old phones. It has {start} so far, gets {week} more each day, "
            "and stops at {goal}. How many days are still to come?",
            {"goal": up(200, 500, 25), "start": up(40, 120), "week": up(15, 35)},
        ),
        (
            "{a} is preparing {goal} invitations. {a_He} has written {start}, and {a_he} and {b} "
            "together write {week} an hour. How many hours of writing are left?",
            {"goal": up(80, 160, 5), "start": up(8, 30), "week": up(10, 18)},
        ),
    ],
    "average": [
        (
            "After {n} games {a}'s average is {mean} points. In the next game {a_he} scores {new} "
            "points. What is {a_his} average over all games now?",
            {"mean": up(10, 24), "n": up(3, 7), "new": up(16, 40)},
        ),
        (
            "The mean height of {n} plants is {mean} cm. {b} puts one more plant beside them, "
            "which is {new} cm tall. What is the mean height of all the plants, in centimetres?",
            {"mean": up(20, 40), "n": up(4, 8), "new": up(26, 70)},
        ),
        (
            "In the first {n} weeks of its life a café had {mean} guests a week on average; in "
            "the week after that it had {new}. How many guests a week is that on average for the "
            "whole time?",
            {"mean": up(120, 200, 5), "n": up(3, 5), "new": up(150, 320, 10)},
        ),
        (
            "{a} has an average mark of {mean} in {n} tests. What will the average be if {a_he} "
            "gets {new} in one more test?",
            {"mean": up(70, 84), "n": up(3, 6), "new": up(75, 100)},
        ),
        (
            "A lift carries {n} people who weigh {mean} kg on average. {a}, who weighs {new} kg, "
            "gets in. What is now the average weight in kilograms?",
            {"mean": up(60, 75), "n": up(3, 6), "new": up(50, 95)},
        ),
    ],
}
